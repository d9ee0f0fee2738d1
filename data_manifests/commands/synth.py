"""`chorus-data synth`: furnished rooms from a seed, in one of three layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import ValidationError

from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.progress import progress
from data_manifests.synthetic.dataset import LayoutName, SynthConfig, plan_jobs, write_dataset
from data_manifests.synthetic.options import DOMAINS, RoomOptions, RoomType

_DEFAULT = RoomOptions()


@click.command("synth")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="folder of the data set")
@click.option(
    "--rooms", default=10, show_default=True, type=click.IntRange(1, 9000), help="rooms in all splits together"
)
@click.option("--val", default=None, type=click.IntRange(0), help="rooms of the val split  [default: a fifth]")
@click.option("--test", default=0, show_default=True, type=click.IntRange(0), help="rooms of the test split")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@click.option("--layout", default="gaussians", show_default=True, type=click.Choice(get_args(LayoutName)))
@click.option(
    "--gaussians", default=_DEFAULT.gaussians, show_default=True, help="Gaussians (s3dis: points) per room, about"
)
@click.option("--views", default=_DEFAULT.views, show_default=True, help="cameras per room")
@click.option("--width", default=_DEFAULT.width, show_default=True, help="pixels")
@click.option("--height", default=_DEFAULT.height, show_default=True, help="pixels")
@click.option("--room-type", default=None, type=click.Choice(get_args(RoomType)), help="default: all types take turns")
@click.option("--domain", default="clean", show_default=True, type=click.Choice(sorted(DOMAINS)))
@click.option("--mesh-step", default=0.04, show_default=True, help="edge length of scannet meshes in metres")
@click.option("--defects", is_flag=True, help="s3dis: show the known defects of the release")
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    help="processes; the bytes do not depend on it",
)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object at the end")
def command(
    out: Path, rooms: int, val: int | None, test: int, seed: int, layout: LayoutName, mesh_step: float,
    defects: bool, workers: int,
    as_json: bool, **room: Any,
) -> None:  # fmt: skip
    """Write furnished rooms with ScanNet20 labels, instances, parts and cameras.

    Layouts: gaussians (labelled Gaussian scenes and a manifest: what training reads), scannet and s3dis (the raw
    release layouts of these data sets, for testing readers). Run the same command again to go on after an interruption,
    or with more --rooms to enlarge a data set.
    """
    counts = split_counts(rooms, val, test)
    try:
        config = SynthConfig(layout=layout, seed=seed, room=RoomOptions(**room), mesh_step=mesh_step, defects=defects)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][-1]).replace("_", "-")
        raise ConfigError(f"--{name} {problem['input']}: {problem['msg']}") from None
    jobs = plan_jobs(config, counts)
    there = sum((out / job.folder).exists() for job in jobs)
    with progress(len(jobs), "rooms") as bar:
        for scene_id in write_dataset(out, config, counts, workers):
            bar.advance(note=scene_id)
    if as_json:
        summary = {
            "out": str(out), "layout": layout, "rooms": len(jobs), "written": len(jobs) - there, "splits": counts,
            "manifest": str(out / "manifest.parquet") if layout == "gaussians" else None,
        }  # fmt: skip
        click.echo(json.dumps(summary))
    else:
        click.echo(f"{out}: {len(jobs)} rooms, {len(jobs) - there} of them new")


def split_counts(rooms: int, val: int | None, test: int) -> dict[str, int]:
    """Rooms per split; a fifth goes to val (at least one of two or more) unless told otherwise."""
    held = val if val is not None else (max(1, round(rooms / 5)) if rooms - test > 1 else 0)
    if held + test > rooms:
        raise ConfigError(f"--val {held} and --test {test} are more than --rooms {rooms}")
    return {"train": rooms - held - test, "val": held, "test": test}
