"""`chorus-data prepare`: a data set's release into one store of scenes with a manifest."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED, ConfigError
from chorus_common.runtime.options import FOLDER, json_option, out_option, reading_options, set_option, workers_option

if TYPE_CHECKING:
    from data_manifests.datasets.prepare import Prepared
    from data_manifests.datasets.settings import PrepareConfig


@click.command("prepare")
@click.argument("dataset")
@click.option("--root", required=True, type=FOLDER, help="Folder of the release as it came.")
@out_option("Store of prepared scenes. Several data sets may share one.", FOLDER)
@click.option("--split", "splits", multiple=True, help="Prepare this split only. May be given several times.")
@set_option("One setting, such as grid=0.02.")
@reading_options("the data set's")
@workers_option()
@json_option()
def prepare_command(
    dataset: str, root: Path, out: Path, splits: tuple[str, ...], settings: tuple[str, ...], max_gaussians: int | None,
    lod: int | None, workers: int, as_json: bool,
) -> int:  # fmt: skip
    """Prepare a released data set: scenes, labels and a manifest.

    DATASET is a name that the program knows (scannet, s3dis, ...) or a TOML like those in data_manifests/releases/.
    Run the same command again to go on after an interruption: scenes that are there and have not changed are left
    alone.
    """
    from data_manifests.datasets.outcomes import totals
    from data_manifests.datasets.prepare import prepare

    read = {"gaussians.max_gaussians": max_gaussians, "gaussians.lod": lod}
    told = read | {"splits": json.dumps(splits) if splits else None}
    config = _load(dataset, [*settings, *(f"{key}={value}" for key, value in told.items() if value is not None)])
    result = prepare(config, root, out, workers=workers)
    report = totals(result.outcomes) | {"manifest": str(result.manifest), "notes": list(result.notes)}
    report["errors"] = {outcome.scene_id: outcome.error for outcome in result.outcomes if outcome.error}
    click.echo(json.dumps(report, indent=2) if as_json else "\n".join(_lines(result, report)))
    return EXIT_SOME_FAILED if report["failed"] else EXIT_DONE


def _load(dataset: str, settings: list[str]) -> PrepareConfig:
    from chorus_common.runtime.config import load_config
    from data_manifests.datasets.settings import PrepareConfig

    path = Path(dataset)
    if path.is_file():
        return load_config(PrepareConfig, path, settings)
    releases = files("data_manifests").joinpath("releases").iterdir()
    known = {file.name.removesuffix(".toml"): file for file in releases if file.name.endswith(".toml")}
    if dataset not in known:
        raise ConfigError(f"{dataset}: no such file, and no data set of that name; known: {', '.join(sorted(known))}")
    with as_file(known[dataset]) as there:
        return load_config(PrepareConfig, there, settings)


def _lines(result: Prepared, report: dict[str, Any]) -> list[str]:
    splits = ", ".join(f"{count} {split}" for split, count in report["splits"].items())
    lines = [
        f"{result.manifest}: {report['scenes']} scenes ({splits or 'none'}), {report['new']} of them new; "
        f"{report['points']} points, {report['gaussians']} Gaussians, {report['instances']} instances"
    ]
    for space, counts in report["labels"].items():
        lines.append(f"{space}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    lines += [f"note: {note}" for note in result.notes]
    if report["scenes_with_notes"]:
        lines.append(f"note: {report['scenes_with_notes']} scenes were read with repairs; see outcomes/ beside it")
    if report["failed"]:
        lines.append(f"{report['failed']} scenes failed; the reasons are above and in outcomes/ beside the manifest")
    return lines
