"""Colour and depth pictures from files: whole, of the expected size, or one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from chorus_common.camera_io.picture_files import picture_size
from chorus_common.runtime.errors import SceneError

F32 = NDArray[np.float32]

COLOR_SUFFIXES = (".jpg", ".jpeg", ".png")
DEPTH_SUFFIXES = (".png", ".npy")
#: Pixels of the largest picture that is read; no RGB-D sensor comes near this.
MAX_PIXELS = 1 << 26


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture or a depth table, from its header."""
    if path.suffix.lower() == ".npy":
        height, width = _array(path).shape
        return width, height
    return picture_size(path)


def read_color(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """[H, W, 3] u8; SceneError where the file is damaged or not of `size` (width, height)."""
    with _opened(path) as image:
        _check_size(path, image.size, size)
        return np.asarray(_decoded(path, image).convert("RGB"), dtype=np.uint8)


def read_depth(path: Path, size: tuple[int, int], unit: float) -> F32:
    """[H, W] f32 metres, 0 = unknown. Integer PNGs count in `unit` metres, .npy files hold metres.

    What is negative or not finite was not measured: sensors and exporters write such values for unknown depth.
    """
    if path.suffix.lower() == ".npy":
        values = _array(path).astype(np.float32)
    else:
        with _opened(path) as image:
            if image.mode not in ("I;16", "I;16B", "I", "L"):
                raise SceneError(f"{path}: depth must be one integer channel, this picture is {image.mode}")
            values = np.asarray(_decoded(path, image)).astype(np.float32) * np.float32(unit)
    _check_size(path, (values.shape[1], values.shape[0]), size)
    return np.where(np.isfinite(values) & (values > 0), values, np.float32(0))


def _opened(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
    except FileNotFoundError:
        raise SceneError(f"{path}: no such picture") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError) as error:
        raise SceneError(f"{path}: not a readable picture ({error})") from None
    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise SceneError(f"{path}: {image.size[0]}x{image.size[1]} pixels; more than {MAX_PIXELS} are not read")
    return image


def _decoded(path: Path, image: Image.Image) -> Image.Image:
    try:
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise SceneError(f"{path}: the picture is damaged ({error})") from None
    return image


def _array(path: Path) -> NDArray[np.floating]:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise SceneError(f"{path}: no such picture") from None
    except (ValueError, OSError, EOFError) as error:
        raise SceneError(f"{path}: not a readable .npy file ({error})") from None
    if values.ndim != 2 or values.dtype.kind != "f" or values.size > MAX_PIXELS:
        raise SceneError(f"{path}: holds {values.dtype} {list(values.shape)}, expected float metres [H, W]")
    return values


def _check_size(path: Path, found: tuple[int, int], wanted: tuple[int, int]) -> None:
    if found != wanted:
        raise SceneError(
            f"{path}: is {found[0]}x{found[1]}, its camera {wanted[0]}x{wanted[1]}; "
            "all pictures of a camera must have one size"
        )
