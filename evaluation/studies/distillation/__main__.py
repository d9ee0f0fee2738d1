"""python -m evaluation.studies.distillation: the synthetic benchmark behind docs/experiments/study.md."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from chorus_common.runtime.errors import run_cli
from evaluation.studies.distillation.plan import Study, plan
from evaluation.studies.distillation.table import figures, write_page
from evaluation.studies.jobs import run_jobs


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/study"), help="Folder of everything.")
@click.option(
    "--page", type=click.Path(path_type=Path), default=Path("docs/experiments/study.md"), help="Page to write into."
)
@click.option("--rooms", type=click.IntRange(min=2), default=48, help="Rooms to train on.")
@click.option("--val", type=click.IntRange(min=1), default=8, help="Rooms to score on.")
@click.option("--steps", type=click.IntRange(min=1), default=280, help="Steps of the trainings in full.")
@click.option("--short-steps", type=click.IntRange(min=1), default=60, help="Steps of those that change one setting.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, help="Trainings per variant.")
@click.option("--variants", default="", help="Names, comma between; the reference always runs.  [default: all]")
@click.option("--minutes", type=click.FloatRange(min=0), default=60.0, help="Nothing is started after that.")
@click.option("--workers", type=click.IntRange(min=1), default=2, help="Processes of one thread.")
def study(
    out: Path,
    page: Path,
    rooms: int,
    val: int,
    steps: int,
    short_steps: int,
    seeds: int,
    variants: str,
    minutes: float,
    workers: int,
) -> int:
    """Train every variant with every seed, score it, and write the table. The same command again goes on."""
    names = tuple(name.strip() for name in variants.split(",") if name.strip())
    chosen = Study(out, rooms, val, steps, short_steps, seeds, names)
    chosen.record_settings()
    outcome = run_jobs(plan(chosen), out / "logs", workers=workers, minutes=minutes)
    body = figures(chosen, "python -m evaluation.studies.distillation " + shlex.join(sys.argv[1:]))
    write_page(page, body)
    click.echo(body)
    return outcome.exit_code


if __name__ == "__main__":
    run_cli(study)
