"""Options that several commands share, the arguments they are bundled into, and how a command ends."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED
from chorus_common.runtime.options import (
    FILE,
    FOLDER,
    PATH,
    alignment_options,
    manifest_option,
    out_option,
    reading_options,
    seed_option,
    split_option,
    stores_option,
)
from chorus_common.runtime.store_path import StorePathType
from evaluation.results import text_table

Command = Callable[..., Any]

#: -> stores
scene_stores_option = stores_option(required=False, default="the manifest's own files")
#: -> manifest
scene_manifest_option = manifest_option(default="every scene of the stores")
#: -> out
result_option = out_option("Result file (JSON).", FILE)
#: -> split
scored_split_option = split_option("Split of the manifest to evaluate.", "val")
space_option = click.option(
    "--label-space", default="", help="Score against these classes.  [default: the scenes' own]"
)
target_option = click.option(
    "--on", "target", type=click.Choice(["gaussians", "points"]), default="gaussians", help="What is scored."
)
prompts_option = click.option(
    "--prompts", default="rooms", help="Prompt templates: plain, scenesplat or rooms (evaluation/prompts.py)."
)
synonyms_option = click.option("--synonyms", is_flag=True, help="Average over other names of each class, too.")
tta_option = click.option(
    "--tta-rotations",
    type=click.IntRange(min=1),
    default=1,
    help="Yaw angles to encode a scene at. Features are their mean.",
)
lifted_option = click.option("--lifted", is_flag=True, help="Use the teacher's own features, lifted from the cache.")
seen_classes_option = click.option(
    "--classes",
    default="",
    help="What predictions are called: names between commas, a file, or a label space.  [default: the scene's own]",
)
seen_labels_option = click.option(
    "--labels", type=FOLDER, help="Folder that chorus-eval label wrote for this scene: classes and objects."
)
voters_option = click.option(
    "-k", "k", type=click.IntRange(min=1), default=25, help="Gaussians that vote for a point (--on points)."
)
hold_out_option = click.option(
    "--hold-out", default="", help="Pool the splits and score the scene ids that match this pattern, such as Area_5_*."
)
learn_split_option = click.option(
    "--train-split", "train_splits", multiple=True, default=["train"],
    help="Split of the manifest to learn from. May be given several times.",
)  # fmt: skip


def encoder_device_option() -> Callable[[Command], Command]:
    """-> device: as torch names it; one that is not there is refused before any work."""
    return click.option(
        "--device", default="auto", callback=_device, help="Where the encoder runs: auto, cpu, cuda or cuda:N."
    )


def _device(context: click.Context, parameter: click.Parameter, name: str) -> str:
    """The device as torch names it; one that is not there is refused before any work."""
    if name == "cpu" or context.resilient_parsing:
        return name
    from chorus_common.runtime.devices import pick_device

    return str(pick_device(name))


def bundle(
    argument: str, kind: Callable[[], type], *options: Callable[[Command], Command]
) -> Callable[[Command], Command]:
    """`options` as one argument of the command: an instance of the dataclass that `kind()` imports.

    Every option of the command that is named as a field of the dataclass goes into it, those that are declared beside
    the bundle too (a command may word an option in its own way).
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def gathered(**given: Any) -> Any:
            made = kind()
            taken = {f.name: given.pop(f.name) for f in fields(made) if f.name in given}
            return command(**given, **{argument: made(**taken)})

        bundled: Command = gathered
        for option in reversed(options):
            bundled = option(bundled)
        return bundled

    return decorate


def _source_kind() -> type:
    from evaluation.sources import SourceOptions

    return SourceOptions


def _scene_kind() -> type:
    from evaluation.scenes import SceneOptions

    return SceneOptions


#: -> sources: SourceOptions, for commands that ask by text; --lifted is worded by the command.
text_source_options = bundle(
    "sources",
    _source_kind,
    click.option("--encoder", type=PATH, help="Student (or another checkpoint), a path or a name: row 'student'."),
    click.option("--random", is_flag=True, help="Add the row 'random': the same architecture with random weights."),
    click.option(
        "--features",
        type=StorePathType(),
        help="Folder of <scene id>.npy [N, C] in the text space: row 'features'.",
    ),
    click.option("--teacher", help="Text-aligned teacher to ask.  [default: the first that has a text side]"),
    click.option(
        "--text",
        help="Spec of the text encoder, where neither student nor store tells, or of another copy of the student's.",
    ),
    click.option(
        "--text-embeddings",
        type=FILE,
        help="File phrase -> vector (.npz, .safetensors, .pt) in place of a text encoder. It takes no --prompts.",
    ),
    seed_option("Seed of the random weights."),
    tta_option,
    encoder_device_option(),
)
#: -> sources: SourceOptions, for commands that compare an encoder's own output.
encoder_source_options = bundle(
    "sources",
    _source_kind,
    click.option("--encoder", type=PATH, help="Student or encoder, a path or a name: row 'encoder' (its own output)."),
    click.option("--random/--no-random", default=True, help="The row 'random': the same architecture, random weights."),
    click.option(
        "--features",
        type=StorePathType(),
        help="Folder with clean/<scene id>.npy and <perturbation>/<scene id>.npy: row 'features'. See --export.",
    ),
    seed_option("Seed of noise, subsampling and random weights."),
    tta_option,
    encoder_device_option(),
)
#: -> scenes: SceneOptions
scene_options = bundle(
    "scenes",
    _scene_kind,
    scene_stores_option,
    scene_manifest_option,
    scored_split_option,
    space_option,
    alignment_options(),
    reading_options("the manifest's"),
)


def finish(rows: dict[str, Any], excluded: dict[str, str], failed: bool, out: Path) -> int:
    """Print the table of a semantic result; exit code 1 where scenes are missing that should have been there."""
    keys = ("miou", "f_miou", "macc", "f_macc", "overall_accuracy")
    header = ("", "mIoU", "f-mIoU", "mAcc", "f-mAcc", "accuracy")
    click.echo(text_table(header, [(name, *(row[key] for key in keys)) for name, row in rows.items()]))
    left_out(excluded, out)
    return EXIT_SOME_FAILED if failed else EXIT_DONE


def left_out(excluded: dict[str, str], out: Path) -> None:
    """The end of every table: the scenes that are not in it, and where the result lies."""
    for name, reason in excluded.items():
        click.echo(f"left out: {name}: {reason}", err=True)
    click.echo(f"written: {out}")


def optional_text(path: Path | None) -> str | None:
    """A path for the inputs of a result file."""
    return None if path is None else str(path)
