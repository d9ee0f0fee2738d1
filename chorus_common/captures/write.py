"""RGB-D captures of our rooms: what a depth sensor would have made of rendered views, in the readers' layouts.

    scannet   color/*.jpg (twice the depth's size), depth/*.png, pose/, intrinsic/    as ScanNet's exporter writes them
    plain     color/*.png, depth/*.png, transforms.json

Rendering is the caller's: a view is its colour and its true depth.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from chorus_common.camera_io import write_transforms_json
from chorus_common.cameras import CameraSet
from chorus_common.captures.capture import MILLIMETRE
from chorus_common.runtime.atomic import fsync_directory
from chorus_common.runtime.config import Config

F32 = NDArray[np.float32]
#: (view number, cameras) -> colour [H, W, 3] in [0, 1], depth [H, W] metres (0 = nothing), alpha [H, W].
RenderView = Callable[[int, CameraSet], tuple[F32, F32, F32]]
CaptureLayout = Literal["scannet", "plain"]


class SensorConfig(Config):
    """A structured-light depth sensor.

    Attributes:
        noise: standard deviation of depth at 1 m, metres; it grows with the square of depth (Khoshelham & Elberink,
            Sensors 2012: 1.425e-3).
        near, far: metres between which it measures.
        edge: jump of depth to a neighbour, relative to the farther of the two, at which a pixel is lost with
            probability one half.
        min_alpha: pixels that the scene covers less are lost.
    """

    noise: float = Field(default=1.425e-3, ge=0)
    near: float = Field(default=0.3, gt=0)
    far: float = Field(default=8.0, gt=0)
    edge: float = Field(default=0.05, gt=0)
    min_alpha: float = Field(default=0.7, ge=0, le=1)


def sense_depth(depth: F32, alpha: F32, sensor: SensorConfig, rng: np.random.Generator) -> F32:
    """What `sensor` measures of true depth [H, W] (metres) where the scene covers alpha [H, W]; 0 = lost."""
    noisy = depth + rng.standard_normal(depth.shape, dtype=np.float32) * np.float32(sensor.noise) * depth**2
    jump = np.zeros(depth.shape, dtype=bool)
    for axis in (0, 1):
        large = np.abs(np.diff(depth, axis=axis)) > sensor.edge * np.maximum(*_neighbours(depth, axis))
        first, second = [slice(None)] * 2, [slice(None)] * 2
        first[axis], second[axis] = slice(0, -1), slice(1, None)
        jump[tuple(first)] |= large
        jump[tuple(second)] |= large
    lost = jump & (rng.random(depth.shape) < 0.5)
    lost |= (alpha < sensor.min_alpha) | (depth < sensor.near) | (depth > sensor.far)
    return np.where(lost, 0, np.maximum(noisy, 0)).astype(np.float32)


def write_capture(
    folder: Path,
    cameras: CameraSet,
    render: RenderView,
    *,
    layout: CaptureLayout = "scannet",
    sensor: SensorConfig | None = None,
    seed: int = 0,
) -> None:
    """Write the views of `cameras` (whose size is the depth pictures') as a capture at `folder`, whole or not at all.

    The same arguments give the same pictures; frames carry the cameras' names.
    """
    sensor = sensor or SensorConfig()
    temporary = folder.with_name(f".tmp-{uuid.uuid4().hex}-{folder.name}")
    factor, suffix = (2, "jpg") if layout == "scannet" else (1, "png")
    colored = cameras.resized(cameras.width * factor, cameras.height * factor)
    try:
        for part in ("color", "depth"):
            (temporary / part).mkdir(parents=True)
        for view, name in enumerate(cameras.names):
            color, depth, alpha = render(view, colored)
            picture = Image.fromarray(np.rint(np.clip(color, 0, 1) * 255).astype(np.uint8))
            picture.save(temporary / "color" / f"{name}.{suffix}", quality=95)
            if factor > 1:
                _, depth, alpha = render(view, cameras)
            measured = sense_depth(depth, alpha, sensor, np.random.default_rng([seed, view]))
            counts = np.rint(np.clip(measured / MILLIMETRE, 0, 65535)).astype(np.uint16)
            Image.fromarray(counts).save(temporary / "depth" / f"{name}.png")
        if layout == "scannet":
            _write_scannet_cameras(temporary, cameras, colored)
        else:
            write_transforms_json(cameras, temporary / "transforms.json", image_pattern="color/{name}.png")
        temporary.rename(folder)
        fsync_directory(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _neighbours(depth: F32, axis: int) -> tuple[F32, F32]:
    return np.take(depth, range(depth.shape[axis] - 1), axis), np.take(depth, range(1, depth.shape[axis]), axis)


def _write_scannet_cameras(folder: Path, depth: CameraSet, color: CameraSet) -> None:
    """pose/<name>.txt and intrinsic/*.txt with all digits, as rows of numbers."""

    def write(path: Path, matrix: NDArray[np.float64]) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(" ".join(repr(float(x)) for x in row) for row in matrix) + "\n", encoding="utf-8")

    for name, view in zip(depth.names, depth.viewmats):
        write(folder / "pose" / f"{name}.txt", np.linalg.inv(view))
    for kind, cameras in (("color", color), ("depth", depth)):
        matrix = np.eye(4)
        matrix[:3, :3] = cameras.intrinsics[0]
        write(folder / "intrinsic" / f"intrinsic_{kind}.txt", matrix)
        write(folder / "intrinsic" / f"extrinsic_{kind}.txt", np.eye(4))
