"""chorus-stage2 encode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chorus_common.runtime.options import PATH, device_option, out_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

#: Gaussians whose features are made and written at a time
_ROWS = 1 << 16


@click.command("encode")
@click.argument("scene", type=PATH)
@click.option(
    "--encoder",
    "checkpoint",
    type=PATH,
    required=True,
    help="Student or encoder: a folder, a published file, or a name (chorus-3dgs, sonata, hf:OWNER/REPO/FILE).",
)
@out_option("Features, one row per Gaussian of SCENE, as .npy.")
@click.option("--dtype", type=click.Choice(["f16", "f32"]), default="f32", help="Number format of the features.")
@click.option("--teacher", help="Project into this teacher's own space instead of giving the encoder's features.")
@click.option(
    "--tta-rotations",
    type=click.IntRange(min=1),
    default=1,
    help="Yaw angles to encode SCENE at. Features are their mean.",
)
@click.option(
    "--input",
    "kind",
    type=click.Choice(["auto", "gaussians", "points"]),
    default="auto",
    help="What SCENE is. Points have no real opacities, rotations and scales, and an encoder that takes both is told "
    "so; auto goes by the file's format.",
)
@click.option(
    "--block-voxels",
    type=click.IntRange(min=1),
    help="Work through SCENE in blocks of so many voxels, with features between layers on disk; the result is the "
    "same.  [default: only where memory would not suffice]",
)
@click.option("--scratch", type=PATH, help="Folder for what is kept on disk.  [default: beside OUT]")
@device_option()
def encode_command(
    scene: Path,
    checkpoint: Path,
    out: Path,
    dtype: str,
    teacher: str | None,
    tta_rotations: int,
    kind: str,
    block_voxels: int | None,
    scratch: Path | None,
    device: str,
) -> None:
    """Write the features of a scene's Gaussians.

    SCENE has any format that chorus_common.scene_io reads. Killed while it works in blocks, the same command goes on
    where it stopped.
    """
    import shutil

    import numpy as np
    import torch

    from chorus_common.runtime.atomic import atomic_path
    from chorus_common.runtime.devices import pick_device
    from chorus_common.scene_io import probe, read_scene
    from stage2_distill.encode import Blocks
    from stage2_distill.encoder import load_encoder
    from stage2_distill.encoder.inputs import missing_in_points
    from stage2_distill.student import load_student
    from stage2_distill.tta import encode_tta

    target = pick_device(device)
    if teacher is None:
        student, encoder = None, load_encoder(checkpoint).to(target)
    else:
        student = load_student(checkpoint, target)
        student.standardiser(teacher)  # an unknown name is refused before the work, not after
        encoder = student.encoder
    points = kind == "points" or (
        kind == "auto" and encoder.config.inputs.indicator and probe(scene).format.startswith("point-")
    )
    absent = missing_in_points(encoder.config) if points else ()
    work = (scratch or out.parent) / f".{out.name}.work"
    blocks = Blocks(work, block_voxels)
    rotated = encode_tta(encoder, read_scene(scene), tta_rotations, absent=absent, blocks=blocks)

    def parts() -> Iterator[Tensor]:
        for start in range(0, len(rotated), _ROWS):
            stop = min(start + _ROWS, len(rotated))
            if student is None or teacher is None:
                yield rotated.mean(start, stop)
            else:
                yield rotated.in_teacher_space(student, teacher, start, stop)

    number = np.dtype(np.float16 if dtype == "f16" else np.float32)
    width = 0
    with atomic_path(out) as temporary, open(temporary, "wb") as handle, torch.inference_mode():
        for part in parts():
            if not width:
                width = part.shape[1]
                header = {"descr": number.str, "fortran_order": False, "shape": (len(rotated), width)}
                np.lib.format.write_array_header_1_0(handle, header)
            handle.write(part.numpy().astype(number).tobytes())
    shutil.rmtree(work, ignore_errors=True)
    click.echo(f"{out}: {len(rotated)} Gaussians x {width} channels", err=True)
