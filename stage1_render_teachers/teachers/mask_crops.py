"""Square pictures of single masks: the masked pixels sharp, everything around them blurred.

The surroundings stay, out of focus: a network trained on photographs sees a photograph of the thing, and colour and
light of the scene are not replaced by a black that is in no photograph. The crop is a square around the mask's box, so
nothing is stretched and no padding is made up as long as the picture has pixels there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]

#: Side of the square over the longer side of the mask's box: a little of what is around.
MARGIN = 1.1

#: Standard deviation of the blur over the picture's longer side: 16 pixels at 640. Our choice: large enough that a
#: neighbouring object loses its outline.
BLUR = 1 / 40


def mask_crops(image: U8, ids: I32, size: int) -> U8:
    """Crops [M, size, size, 3] u8 of a picture [H, W, 3] u8, one per mask of ids [H, W] (0..M-1, -1 = none).

    Raises ValueError for an id without pixels.
    """
    boxes = ndimage.find_objects(ids + 1)  # per id a pair of slices, None where it has no pixels
    crops = np.empty((len(boxes), size, size, 3), dtype=np.uint8)
    if not boxes:
        return crops
    sigma = BLUR * max(image.shape[:2])
    soft = ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0), mode="nearest", truncate=3.0)
    blurred = np.clip(np.rint(soft), 0, 255).astype(np.uint8)
    for mask, box in enumerate(boxes):
        if box is None:
            raise ValueError(f"mask {mask} has no pixels")
        square = square_around(box, MARGIN)
        rows, cols = (
            np.clip(np.arange(begin, end), 0, extent - 1) for (begin, end), extent in zip(square, ids.shape)
        )  # beyond the border, its pixels are repeated
        window = np.ix_(rows, cols)
        sharp = (ids[window] == mask)[..., None]
        crops[mask] = resized(np.where(sharp, image[window], blurred[window]), size)
    return crops


def square_around(box: tuple[slice, slice], margin: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """(begin, end) of rows and of columns of the smallest square, `margin` times as wide, centred on a box."""
    side = int(np.ceil(margin * max(part.stop - part.start for part in box)))
    starts = [(part.start + part.stop - side) // 2 for part in box]
    return (starts[0], starts[0] + side), (starts[1], starts[1] + side)


def resized(picture: U8, size: int) -> U8:
    """[s, s, 3] u8 -> [size, size, 3] u8 by Pillow's bicubic filter, as in CLIP's own transform."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))
