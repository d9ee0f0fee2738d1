"""Ground-truth objects in rendered views, and square crops of them for a classifier of whole pictures."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from chorus_common.lifting import CellGrid, CellHits
from chorus_common.runtime.errors import ChorusError

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
Surroundings = Literal["kept", "mean", "blurred"]

#: Side of a crop: what ImageNet's classifiers are trained on.
SIDE = 224
#: Standard deviation of the blur over the picture's longer side: 16 pixels at 640.
BLUR = 1 / 40


def instances_in_view(hits: CellHits, instances: I32, grid: CellGrid) -> I32:
    """The instance [H, W] that has most of each pixel's weight, -1 where that is none of them or nothing is seen.

    hits: of cells of one pixel. instances [N]: of the Gaussians, -1 = none. Of equals the lowest.
    """
    owner = instances[hits.gaussian_ids].astype(np.int64) + 1  # 0 = none
    pairs, at = np.unique(hits.cells.astype(np.int64) * (int(instances.max()) + 2) + owner, return_inverse=True)
    weight = np.bincount(at, hits.weights)
    pixel, owner = np.divmod(pairs, int(instances.max()) + 2)
    order = np.lexsort((owner, -weight, pixel))
    first = order[np.unique(pixel[order], return_index=True)[1]]
    ids = np.full(grid.cells, -1, dtype=np.int32)
    ids[pixel[first]] = owner[first] - 1
    return ids.reshape(grid.rows, grid.cols)


def crop(image: U8, mask: NDArray[np.bool_], margin: float, surroundings: Surroundings, blurred: U8) -> U8:
    """[SIDE, SIDE, 3] u8: the square around a mask's box, `margin` times its longer side, of a picture [H, W, 3].

    Beyond the picture its edge is repeated. surroundings: what is not of the mask stays, has the mask's mean colour, or
    is taken from `blurred` (see `blur`).
    """
    rows, cols = ndimage.find_objects(mask.astype(np.int8))[0]
    side = int(np.ceil(margin * max(rows.stop - rows.start, cols.stop - cols.start)))
    top, left = (part.start + part.stop - side >> 1 for part in (rows, cols))
    height, width = mask.shape
    down, right = top + np.arange(side), left + np.arange(side)
    window = np.ix_(np.clip(down, 0, height - 1), np.clip(right, 0, width - 1))
    pixels = image[window]
    if surroundings != "kept":
        beyond = ((down < 0) | (down >= height))[:, None] | ((right < 0) | (right >= width))[None]
        around = blurred[window] if surroundings == "blurred" else np.rint(image[mask].mean(axis=0)).astype(np.uint8)
        pixels = np.where((mask[window] & ~beyond)[..., None], pixels, around)
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def blur(image: U8) -> U8:
    """The picture [H, W, 3] u8 without outlines."""
    sigma = BLUR * max(image.shape[:2])
    soft = ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0), mode="nearest", truncate=3.0)
    return np.clip(np.rint(soft), 0, 255).astype(np.uint8)


def classify(crops: Sequence[U8]) -> F32:
    """Logits [M, 1000] of crops by the packaged classifier; in a process of stage 1, where teachers live."""
    with tempfile.TemporaryDirectory() as folder:
        pictures, logits = Path(folder) / "pictures.npy", Path(folder) / "logits.npy"
        np.save(pictures, np.stack(crops))
        program = [sys.executable, "-m", "stage1_render_teachers.classify_pictures", str(pictures), str(logits)]
        if subprocess.run(program).returncode:
            raise ChorusError("the classifier of crops failed; its own line says why")
        return np.asarray(np.load(logits), dtype=np.float32)
