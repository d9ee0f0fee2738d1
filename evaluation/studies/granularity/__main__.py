"""python -m evaluation.studies.granularity: see study.py."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click
import torch

from chorus_common.cache import SceneCache
from chorus_common.manifest import Manifest
from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import run_cli
from chorus_common.runtime.progress import progress
from evaluation.results import read_result, result_document, text_table, write_result
from evaluation.studies.granularity.study import SELECTIONS, StudyConfig, StudyRoom, study_room, summarise

FILE = click.Path(path_type=Path)


@click.command("field-study", context_settings={"show_default": True})
@click.option("--manifest", type=FILE, required=True, help="Of synthetic rooms.")
@click.option("--store", type=FILE, required=True, help="Their cache.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the study.")
@click.option("--out", type=FILE, required=True, help="Result (JSON). Same command again: goes on.")
def command(manifest: Path, store: Path, settings: tuple[str, ...], out: Path) -> None:
    """Granularity selection on rooms with part-level truth: train every kind of field on every room and seed."""
    config = load_config(StudyConfig, None, settings)
    torch.set_num_threads(1)  # the fields are small, and sums must not depend on the machine
    line = shlex.join(["python", "-m", "evaluation.studies.granularity", *sys.argv[1:]])
    inputs = {"manifest": str(manifest), "store": str(store), **config.model_dump(mode="json")}
    rows = []
    if out.exists() and (before := read_result(out))["inputs"] == inputs:
        rows = before["rows"]
    done = {(row["room"], row["seed"]) for row in rows}
    todo = [(row, seed) for row in Manifest.read(manifest) for seed in config.seeds]
    with progress(len(todo), "fields", done=len(done)) as reporter:
        for row, seed in todo:
            if (row.scene_id, seed) in done:
                continue
            cache = SceneCache.open(store / row.dataset / f"{row.scene_id}.zarr")
            rows += list(study_room(StudyRoom.read(cache, Path(row.scene_path)), config, seed))
            write_result(out, result_document("field-study", line, inputs, {"rows": rows}))
            reporter.advance()
    body = summarise(rows)
    write_result(out, result_document("field-study", line, inputs, {**body, "rows": rows}))
    keys = ("miou", "average_precision", "segmentation", "segmentation_3d", "variance")
    table = [(name, *(body["selections"][name][key] for key in keys)) for name in SELECTIONS]
    click.echo(text_table(("", "mIoU", "AP", "seg. mIoU", "seg. 3D", "variance"), table))


if __name__ == "__main__":
    run_cli(command)
