"""The scenes of two manifests as one.

python -m evaluation.studies.real_scenes.mixed A.parquet B.parquet OUT.parquet
"""

from __future__ import annotations

from pathlib import Path

import click

from chorus_common.manifest import Manifest
from chorus_common.runtime.errors import run_cli

FILE = click.Path(path_type=Path)


@click.command("mixed")
@click.argument("first", type=FILE)
@click.argument("second", type=FILE)
@click.argument("out", type=FILE)
def command(first: Path, second: Path, out: Path) -> None:
    """Join two manifests."""
    rows = (*Manifest.read(first), *Manifest.read(second))
    Manifest(out.parent, rows).write(out)


if __name__ == "__main__":
    run_cli(command)
