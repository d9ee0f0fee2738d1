"""Lossless WebP pictures as tables of bytes: four channels a pixel, one pixel a Gaussian."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chorus_common.scene_io.archive import Files
from chorus_common.scene_io.bounds import fail

U8 = NDArray[np.uint8]


def read_table(path: Path, files: Files, name: str, rows: int) -> U8:
    """The first `rows` pixels [rows, 4] of picture `name`, row by row; `path` is named where it is damaged.

    The picture's header is looked at before its pixels take memory: it may have room for a few times the rows, as other
    writers choose square or power-of-two sizes, and no more.
    """
    return _pixels(path, files, name, rows, 4 * rows + 65536).reshape(-1, 4)[:rows]


def read_picture(path: Path, files: Files, name: str, width: int, height: int) -> U8:
    """Picture `name` [height, width, 4]."""
    pixels = _pixels(path, files, name, width * height, width * height)
    if pixels.shape[:2] != (height, width):
        fail(path, f"{name} is {pixels.shape[1]}x{pixels.shape[0]}, expected {width}x{height}")
    return pixels


def write_table(table: U8, width: int, height: int) -> bytes:
    """Bytes of a lossless WebP of `width` x `height` pixels with the rows of `table` [N, 4]; the rest is zero."""
    pixels = np.zeros((height * width, 4), np.uint8)
    pixels[: len(table)] = table
    out = io.BytesIO()
    # exact: colours under a clear alpha are data here, too
    Image.fromarray(pixels.reshape(height, width, 4), "RGBA").save(
        out, "WEBP", lossless=True, exact=True, quality=50, method=3
    )
    return out.getvalue()


def _pixels(path: Path, files: Files, name: str, least: int, most: int) -> U8:
    """All pixels [H, W, 4] of a picture with `least` to `most` of them."""
    data = files.read(name)
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
            width, height = image.size
            if not least <= width * height <= most:
                fail(path, f"{name} has {width}x{height} pixels, expected {least} to {most}")
            return np.array(image.convert("RGBA"), np.uint8)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        fail(path, f"{name} is no WebP picture: {' '.join(str(error).split())[:100]}")
