"""chorus-stage2 encode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus_common.runtime.options import PATH, alignment_options, device_option, out_option, reading_options

if TYPE_CHECKING:
    from chorus_common.scene_check import AlignmentSettings
    from stage2_distill.encoder import Encoder
    from stage2_distill.student import Student


class _Fragments(click.ParamType):
    """A number above 0, or "all" (None)."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value is None or isinstance(value, int):
            return value
        if value == "all":
            return None
        if not str(value).isdigit() or int(value) < 1:
            self.fail(f"{value!r} is neither a number above 0 nor 'all'", param, ctx)
        return int(value)


@click.command("encode")
@click.argument("scene", type=PATH)
@click.option(
    "--encoder", "checkpoint", type=PATH, required=True,
    help="Student or encoder: a folder, a published file, or a name (chorus-3dgs, sonata, hf:OWNER/REPO/FILE).",
)  # fmt: skip
@out_option("Folder for <scene>_<output>.npy; or, of one scene and one output, the file itself.")
@click.option(
    "--output", "--teacher", "names", multiple=True,
    help="What to write: a student's teacher (its own space), backbone_upcast (the encoder's features) or "
    "backbone_last (its deepest level's tokens). May be given several times.  [default: backbone_upcast]",
)  # fmt: skip
@click.option(
    "--protocol", type=click.Choice(["own", "release"]), default="own",
    help="Inference. own: one pass, every Gaussian takes its voxel's feature. release: just the released Chorus's, "
    "the mean over as many passes as the fullest voxel has Gaussians.",
)  # fmt: skip
@click.option(
    "--fragments", type=_Fragments(), default=1, show_default="1",
    help="With --protocol own: average over so many passes, each with another Gaussian of every voxel.",
)  # fmt: skip
@click.option(
    "--tta-rotations",
    type=click.IntRange(min=1),
    default=1,
    help="Yaw angles to encode a scene at. Features are their mean.",
)
@click.option(
    "--outlier-filter", is_flag=True,
    help="Mask what the released Chorus drops from a splat: such rows stay, as zeros, marked in <scene>_outlier.npy.",
)  # fmt: skip
@click.option(
    "--format", "file_format", type=click.Choice(["npy", "pt", "safetensors"]),
    help="File format; .pt and .safetensors are called <scene>_<output>_feat, as the released Chorus's."
    "  [default: that of OUT, else npy]",
)  # fmt: skip
@click.option("--dtype", type=click.Choice(["f16", "f32"]), default="f32", help="Number format of the features.")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16", "auto"]), default="fp32",
    help="Of matrix products. bf16 is off by about 2 %; auto takes it where the device has units for it.",
)  # fmt: skip
@click.option(
    "--input",
    "kind",
    type=click.Choice(["auto", "gaussians", "points"]),
    default="auto",
    help="What a scene is. Points have no real opacities, rotations and scales, and an encoder that takes both is told "
    "so; auto goes by the file's format.",
)
@click.option(
    "--without", multiple=True,
    help="Feed this attribute (color, normal) as zeros, as Utonia takes what is missing. May be given several times.",
)  # fmt: skip
@alignment_options()
@reading_options("a manifest's")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Scenes at a time; they share one model.")
@click.option(
    "--block-voxels",
    type=click.IntRange(min=1),
    help="Work through a scene in blocks of so many voxels, with features between layers on disk; the result is the "
    "same.  [default: only where memory would not suffice]",
)
@click.option("--scratch", type=PATH, help="Folder for what is kept on disk.  [default: beside OUT]")
@device_option()
def encode_command(
    scene: Path,
    checkpoint: Path,
    out: Path,
    names: tuple[str, ...],
    protocol: str,
    fragments: int | None,
    tta_rotations: int,
    outlier_filter: bool,
    file_format: str | None,
    dtype: str,
    precision: str,
    kind: str,
    without: tuple[str, ...],
    workers: int,
    block_voxels: int | None,
    scratch: Path | None,
    device: str,
    alignment: AlignmentSettings,
    max_gaussians: int | None,
    lod: int | None,
) -> int:
    """Write the features of scenes' Gaussians, rows in the file's order.

    SCENE is a scene of any format that chorus_common.scene_io reads, a folder of scenes, or a manifest. A scene that
    cannot be encoded is recorded and the others go on. The same command again goes on where it stopped.
    """
    from chorus_common.runtime.devices import choose_precision, pick_device
    from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED, ConfigError
    from stage2_distill.encoder import load_encoder
    from stage2_distill.hub import locate
    from stage2_distill.inference.job import Job, check_without, find_scenes, run_all, targets
    from stage2_distill.inference.outputs import LAST, UPCAST, outputs
    from stage2_distill.inference.scene import Request
    from stage2_distill.student import is_student, load_student

    wanted = names or (UPCAST,)
    if protocol == "release" and (fragments != 1 or tta_rotations != 1):
        raise ConfigError("--protocol release says itself how often a scene is encoded; leave out --fragments and "
                          "--tta-rotations")  # fmt: skip
    endings = {".pt": "pt", ".safetensors": "safetensors"}
    target = pick_device(device)
    chosen, line = choose_precision(precision, target)  # type: ignore[arg-type]
    if line:
        click.echo(line, err=True)
    request = Request(
        wanted, protocol, fragments, tta_rotations, outlier_filter, dtype,  # type: ignore[arg-type]
        file_format or endings.get(out.suffix, "npy"), chosen,  # type: ignore[arg-type]
        **alignment.model_dump(),
    )  # fmt: skip
    scenes = find_scenes(scene)
    files = targets(scenes, out, wanted, request.format)
    model: Encoder | Student
    if any(name not in (UPCAST, LAST) for name in wanted) and is_student(checkpoint):
        model = load_student(checkpoint, target)
    else:
        model = load_encoder(checkpoint).to(target)
    outputs(model, wanted)  # an unknown name is refused before the work, not after
    absent = check_without(model, without)
    job = Job(model, locate(checkpoint).origin(), request, kind, absent, block_voxels, scratch, max_gaussians, lod)
    if len(scenes) == 1 and scenes[0].path == scene:
        new = job.run(scenes[0], files[0])
        click.echo(f"{out}: {'written' if new else 'was there already'} ({', '.join(wanted)})", err=True)
        return EXIT_DONE
    failed = run_all(job, list(zip(scenes, files)), workers)
    click.echo(f"{out}: {len(scenes) - failed} of {len(scenes)} scenes ({', '.join(wanted)})", err=True)
    return EXIT_SOME_FAILED if failed else EXIT_DONE
