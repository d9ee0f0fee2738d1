"""`chorus-data synth`: furnished rooms from a seed, in one of three layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import ValidationError

from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.options import FOLDER, json_option, out_option, seed_option, workers_option
from chorus_common.runtime.progress import progress
from data_manifests.synthetic.options import DOMAINS, LayoutName, RoomOptions, RoomType

_DEFAULT = RoomOptions()


@click.command("synth")
@out_option("Folder of the data set.", FOLDER)
@click.option("--rooms", default=10, type=click.IntRange(1, 9000), help="Rooms of all splits together.")
@click.option("--val", default=None, type=click.IntRange(0), help="Rooms of the val split.  [default: a fifth]")
@click.option("--test", default=0, type=click.IntRange(0), help="Rooms of the test split.")
@seed_option("Seed of the rooms.")
@click.option("--layout", default="gaussians", type=click.Choice(get_args(LayoutName)), help="What is written.")
@click.option("--gaussians", default=_DEFAULT.gaussians, help="Gaussians of a room, about; points for s3dis.")
@click.option("--views", default=_DEFAULT.views, help="Cameras of a room.")
@click.option("--width", default=_DEFAULT.width, help="Width of the cameras' pictures in pixels.")
@click.option("--height", default=_DEFAULT.height, help="Height of the cameras' pictures in pixels.")
@click.option(
    "--room-type", default=None, type=click.Choice(get_args(RoomType)), help="Only this type.  [default: all in turn]"
)
@click.option("--domain", default="clean", type=click.Choice(sorted(DOMAINS)), help="How the rooms look.")
@click.option("--mesh-step", default=0.04, help="Edge length of scannet meshes in metres.")
@click.option("--defects", is_flag=True, help="Show the known defects of the s3dis release.")
@workers_option()
@json_option("Print one JSON object at the end.")
def synth_command(
    out: Path, rooms: int, val: int | None, test: int, seed: int, layout: LayoutName, mesh_step: float,
    defects: bool, workers: int,
    as_json: bool, **room: Any,
) -> None:  # fmt: skip
    """Make furnished synthetic rooms.

    They have ScanNet20 labels, instances, parts and cameras.

    Layouts: gaussians (labelled Gaussian scenes and a manifest: what training reads), scannet and s3dis (the raw
    release layouts of these data sets, for testing readers). Run the same command again to go on after an interruption,
    or with more --rooms to enlarge a data set.
    """
    from data_manifests.synthetic.dataset import SynthConfig, plan_jobs, write_dataset

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
