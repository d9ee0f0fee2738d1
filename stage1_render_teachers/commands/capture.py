"""chorus-stage1 capture: posed RGB-D frames of scenes, as a depth sensor would have taken them."""

from __future__ import annotations

import zlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from chorus_common.captures.write import CaptureLayout
from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED, SceneError, one_line
from chorus_common.runtime.options import FOLDER, manifest_option, out_option, reading_options, set_option, split_option
from chorus_common.runtime.progress import progress
from chorus_common.runtime.store_path import StorePath

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chorus_common.cameras import CameraSet
    from chorus_common.captures.write import SensorConfig
    from chorus_common.manifest import ManifestRow
    from chorus_common.rasterize import Rasterizer
    from chorus_common.scene import GaussianScene

    F32 = NDArray[np.float32]


@click.command("capture")
@manifest_option(required=True, help="Manifest of scenes with cameras.")
@out_option("Folder of the captures; each goes to OUT/<dataset>/<scene_id>/.", FOLDER)
@split_option()
@click.option("--layout", default="scannet", type=click.Choice(get_args(CaptureLayout)), help="Layout of the files.")
@click.option("--width", default=160, type=click.IntRange(16, 4096), help="Width of the depth pictures in pixels.")
@click.option("--height", default=120, type=click.IntRange(16, 4096), help="Height of the depth pictures in pixels.")
@reading_options("the manifest's")
@set_option("One setting of the sensor: noise, near, far and others.")
def capture_command(
    manifest: StorePath, out: Path, split: str | None, layout: CaptureLayout, width: int, height: int,
    max_gaussians: int | None, lod: int | None, settings: tuple[str, ...],
) -> int:  # fmt: skip
    """Render scenes as RGB-D captures with sensor noise.

    The same command goes on where an earlier run stopped.
    """
    from chorus_common.captures.write import SensorConfig
    from chorus_common.manifest import Manifest
    from chorus_common.rasterize import get_backend
    from chorus_common.runtime.config import load_config
    from stage1_render_teachers.rows import select_rows

    sensor = load_config(SensorConfig, None, settings)
    rows = select_rows(Manifest.read(manifest), split, None, lod=lod, max_gaussians=max_gaussians)
    rasterizer = get_backend("cpu")
    failed = 0
    with progress(len(rows), "captures") as report:
        for row in rows:
            try:
                _capture(row, out / row.dataset / row.scene_id, rasterizer, layout, (width, height), sensor)
            except SceneError as error:
                failed += 1
                report.say(f"failed: {row.dataset}/{row.scene_id}: {one_line(error)}")
            report.advance(note=f"{failed} failed" if failed else "")
    click.echo(f"{out}: {len(rows) - failed} captures")
    return EXIT_SOME_FAILED if failed else EXIT_DONE


def _capture(
    row: ManifestRow, folder: Path, rasterizer: Rasterizer, layout: CaptureLayout, size: tuple[int, int],
    sensor: SensorConfig,
) -> None:  # fmt: skip
    """Write one scene's capture unless it is there."""
    from chorus_common.camera_io import read_cameras
    from chorus_common.captures.write import write_capture
    from chorus_common.scene_io import read_scene

    if folder.exists():
        return
    if row.cameras_path is None:
        raise SceneError(f"scene {row.scene_id}: has no cameras in the manifest; a capture needs poses")
    cameras = read_cameras(row.cameras_path).filled(*size)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scene = read_scene(row.scene_path, label_space=row.label_space, lod=row.lod, max_gaussians=row.max_gaussians)
    seed = zlib.crc32(f"{row.dataset}/{row.scene_id}".encode())  # noise is the scene's own, whatever else is rendered
    write_capture(folder, cameras, partial(_render, rasterizer, scene), layout=layout, sensor=sensor, seed=seed)


def _render(rasterizer: Rasterizer, scene: GaussianScene, view: int, cameras: CameraSet) -> tuple[F32, F32, F32]:
    picture = rasterizer.render(scene, cameras.viewmats[view], cameras.intrinsics[view], cameras.width, cameras.height)
    return picture.color, picture.depth, picture.alpha
