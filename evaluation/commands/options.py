"""Options that several commands share, and how a command ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chorus_common.errors import EXIT_DONE, EXIT_SOME_FAILED
from evaluation.results import text_table

FILE = click.Path(path_type=Path)

store_option = click.option(
    "--store", "stores", type=FILE, multiple=True, required=True, help="Cache root of stage 1; repeatable."
)
manifest_option = click.option(
    "--manifest", type=FILE, help="Manifest that names the scenes of each split.  [default: all of the store]"
)
out_option = click.option("--out", type=FILE, required=True, help="Result file (JSON).")
device_option = click.option("--device", default="cpu", help="Torch device of the encoder.")


def finish(rows: dict[str, Any], excluded: dict[str, str], failed: bool, out: Path) -> int:
    """Print the table of a semantic result; exit code 1 where scenes are missing that should have been there."""
    keys = ("miou", "f_miou", "macc", "f_macc", "overall_accuracy")
    header = ("", "mIoU", "f-mIoU", "mAcc", "f-mAcc", "accuracy")
    click.echo(text_table(header, [(name, *(row[key] for key in keys)) for name, row in rows.items()]))
    for name, reason in excluded.items():
        click.echo(f"left out: {name}: {reason}", err=True)
    click.echo(f"written: {out}")
    return EXIT_SOME_FAILED if failed else EXIT_DONE


def optional_text(path: Path | None) -> str | None:
    """A path for the inputs of a result file."""
    return None if path is None else str(path)
