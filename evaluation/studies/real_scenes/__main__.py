"""python -m evaluation.studies.real_scenes: the figures of docs/experiments/real-scenes.md."""

from __future__ import annotations

from pathlib import Path

import click

from chorus_common.runtime.errors import run_cli
from evaluation.studies.jobs import run_jobs
from evaluation.studies.real_scenes.plan import PARTS, SCANS, Study, plan
from evaluation.studies.real_scenes.table import figures

FOLDER = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--root", type=FOLDER, required=True, help="VoteNet's scannet_train_detection_data.")
@click.option("--out", type=FOLDER, default=Path("runs/real-scenes"), help="Folder of everything.")
@click.option("--only", multiple=True, help=f"A part: {', '.join(PARTS)}. May be given several times.  [default: all]")
@click.option("--release", type=FOLDER, default=SCANS, show_default="the 23 scans", help="How the scans are read.")
@click.option("--views", type=click.IntRange(min=1), default=12, help="Views of a scan.")
@click.option("--mask-views", type=click.IntRange(min=1), default=4, help="Views of a scan for mask teachers.")
@click.option("--named-views", type=click.IntRange(min=1), default=8, help="Views of a scan for masks with names.")
@click.option("--student", type=FOLDER, help="A student that names masks beside the lifted teacher.")
@click.option("--rooms", type=click.IntRange(min=2), default=24, help="Synthetic rooms for students.")
@click.option("--steps", type=click.IntRange(min=1), default=200, help="Steps of a training.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, help="Probes and trainings per row.")
@click.option("--stage1", multiple=True, metavar="KEY=VALUE", help="One more setting of stage 1.")
@click.option("--minutes", type=click.FloatRange(min=0), default=600.0, help="Nothing is started after that.")
@click.option("--workers", type=click.IntRange(min=1), default=2, help="Processes of one thread.")
def study(
    root: Path,
    out: Path,
    only: tuple[str, ...],
    release: Path,
    views: int,
    mask_views: int,
    named_views: int,
    student: Path | None,
    rooms: int,
    steps: int,
    seeds: int,
    stage1: tuple[str, ...],
    minutes: float,
    workers: int,
) -> int:
    """Judge teachers and students on real scans, and print the tables. The same command again goes on."""
    chosen = Study(
        root, out, only or PARTS, release, views, mask_views, named_views, rooms, steps, seeds, stage1,
        named_by=student,
    )  # fmt: skip
    chosen.record_settings()
    outcome = run_jobs(plan(chosen), out / "logs", workers=workers, minutes=minutes)
    click.echo(figures(chosen))
    return outcome.exit_code


if __name__ == "__main__":
    run_cli(study)
