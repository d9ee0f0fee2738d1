"""chorus-stage2 encode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

FILE = click.Path(path_type=Path)
#: Gaussians whose features are made and written at a time
_ROWS = 1 << 16


@click.command("encode")
@click.argument("scene", type=FILE)
@click.option(
    "--encoder", "checkpoint", type=FILE, required=True, help="Folder of a student, or any published checkpoint."
)
@click.option("--out", type=FILE, required=True, help="Features, one row per Gaussian of SCENE, as .npy.")
@click.option("--dtype", type=click.Choice(["f16", "f32"]), default="f32", help="Number format of the features.")
@click.option("--teacher", help="Project into this teacher's own space instead of giving the encoder's features.")
@click.option(
    "--tta-rotations",
    type=click.IntRange(min=1),
    default=1,
    help="Yaw angles to encode SCENE at; features are their mean.",
)
@click.option(
    "--input",
    "kind",
    type=click.Choice(["auto", "gaussians", "points"]),
    default="auto",
    help="points: SCENE has no real opacities, rotations and scales, and an encoder that takes both is told so; "
    "auto: as the file's format says.",
)
@click.option(
    "--block-voxels",
    type=click.IntRange(min=1),
    help="Work through SCENE in blocks of so many voxels, features between layers on disk; same result.  [default: "
    "only where memory would not suffice]",
)
@click.option("--scratch", type=FILE, help="Folder for what is kept on disk.  [default: beside OUT]")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
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
    """Features of every Gaussian of SCENE (any format that chorus_common.scene_io reads).

    Killed while it works in blocks, the same command goes on where it stopped.
    """
    import shutil

    import numpy as np
    import torch

    from chorus_common.runtime.atomic import atomic_path
    from chorus_common.scene_io import probe, read_scene
    from stage2_distill.devices import pick_device
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
