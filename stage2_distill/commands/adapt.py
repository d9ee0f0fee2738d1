"""chorus-stage2 adapt."""

from __future__ import annotations

from pathlib import Path

import click

from chorus_common.runtime.store_path import StorePath, StorePathType

FILE = click.Path(path_type=Path)


@click.command("adapt")
@click.option("--student", type=FILE, required=True, help="Folder of the student to adapt.")
@click.option(
    "--store",
    "stores",
    type=StorePathType(),
    multiple=True,
    required=True,
    help="Cache root of the new domain; repeatable.",
)
@click.option("--manifest", type=FILE, help="Manifest that says which scenes are in --split.")
@click.option("--split", help="Split of the manifest to adapt to.  [default: train]")
@click.option("--val-split", help="Split of the manifest to validate on; keeps the best student in OUT/best.")
@click.option("--config", "config_path", type=FILE, help="Settings as TOML (docs/guide/adapt.md).")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting; repeat as needed.")
@click.option("--out", type=FILE, required=True, help="Folder of the run. Same command again: goes on.")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
def adapt_command(
    student: Path,
    stores: tuple[StorePath, ...],
    manifest: Path | None,
    split: str | None,
    val_split: str | None,
    config_path: Path | None,
    settings: tuple[str, ...],
    out: Path,
    device: str,
) -> None:
    """Adapt a student to the scenes of another domain: no labels, no lifted targets.

    The student's features are rendered through the cached matrix and compared with the teachers' pictures. Weights are
    trained in full, or through low-rank adapters with --set lora.rank=8.
    """
    from chorus_common.runtime.config import load_config
    from stage2_distill.commands.train import run_training
    from stage2_distill.settings import AdaptConfig

    config = load_config(AdaptConfig, config_path, (*settings, f"student={student}"))
    run_training(config, stores, manifest, split, val_split, out, device)
