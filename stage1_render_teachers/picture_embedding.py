"""One vector of a picture, in the space of a dense teacher's cells: what a 3D encoder's head can be asked for.

It is the mean of the teacher's unit vectors over the cells of the picture. Transparent cells do not count, so that an
object that was cut out is asked for without what was behind it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from chorus_common.features.picture_vector import PictureVector
from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import ConfigError, one_line
from stage1_render_teachers.teachers.protocol import DenseTeacher

U8 = NDArray[np.uint8]

#: Cells along the picture's longer side, as many as stage 1's views have, and pixels of a cell.
CELLS, PIXELS = 40, 16
#: Pixels of the largest picture that is read.
MAX_PIXELS = 1 << 27


def read_picture(path: Path) -> U8:
    """[H, W, 4] u8 (RGBA), upright as its EXIF says, the longer side CELLS * PIXELS pixels.

    Raises ConfigError, one line, for what is no picture or too large.
    """
    try:
        with Image.open(path) as image:
            if image.size[0] * image.size[1] > MAX_PIXELS:
                raise ConfigError(
                    f"{path}: {image.size[0]}x{image.size[1]} pixels; more than {MAX_PIXELS} are not read"
                )
            picture = ImageOps.exif_transpose(image).convert("RGBA")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such picture") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise ConfigError(f"{path}: not a readable picture ({one_line(error)[:100]})") from None
    long = CELLS * PIXELS / max(picture.size)
    size = (max(PIXELS, round(picture.width * long)), max(PIXELS, round(picture.height * long)))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS), dtype=np.uint8)


def embed_picture(teacher: DenseTeacher, picture: U8) -> PictureVector:
    """The vector of a picture [H, W, 4] u8. Raises ConfigError for one without any opaque part."""
    height, width = picture.shape[:2]
    grid = CellGrid(width, height, PIXELS)
    alpha = picture[..., 3].astype(np.float64) / 255
    if alpha.sum() < 1:
        raise ConfigError("the picture is transparent throughout; there is nothing to look for")
    colour = picture[..., :3].astype(np.float64)
    mean = (colour * alpha[..., None]).sum(axis=(0, 1)) / alpha.sum()  # behind what is cut out: its own mean colour
    flat = np.rint(colour * alpha[..., None] + mean * (1 - alpha[..., None])).astype(np.uint8)
    cells = teacher.features(flat[None], grid)[0].reshape(grid.cells, -1).astype(np.float64)
    unit = cells / np.maximum(np.linalg.norm(cells, axis=1, keepdims=True), 1e-12)
    seen = _per_cell(alpha, grid)
    weights = np.where(seen >= min(0.5, seen.max()), seen, 0)
    vector = weights @ unit
    length = float(np.linalg.norm(vector))
    if length == 0:
        raise ConfigError(f"teacher {teacher.spec} has no answer to this picture")
    return PictureVector((vector / length).astype(np.float32), teacher.spec, teacher.fingerprint)


def _per_cell(values: NDArray[np.float64], grid: CellGrid) -> NDArray[np.float64]:
    """Mean [cells] of values [H, W] per cell; partial cells count their own pixels."""
    rows = np.arange(0, grid.height, grid.cell)
    columns = np.arange(0, grid.width, grid.cell)
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
    counts = np.diff(np.append(rows, grid.height))[:, None] * np.diff(np.append(columns, grid.width))[None]
    return (sums / counts).reshape(-1)
