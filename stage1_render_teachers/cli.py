"""chorus-stage1: scenes of a manifest -> a store of teacher caches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from chorus_common.cache import published_scenes, verify_store
from chorus_common.manifest import Manifest
from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED, run_cli
from chorus_common.runtime.progress import duration, progress
from chorus_common.runtime.store_path import StorePath, StorePathType
from stage1_render_teachers.calibrate import calibrate as fit_standardisers
from stage1_render_teachers.calibrate import dense_specs, missing_standardisers
from stage1_render_teachers.cluster.pool import open_pool
from stage1_render_teachers.cluster.slurm_jobs import SlurmConfig
from stage1_render_teachers.commands.capture import capture_command
from stage1_render_teachers.commands.copy import copy
from stage1_render_teachers.run import prepare_store, run_stage1, select_rows, shard_rows
from stage1_render_teachers.settings import RunConfig, Stage1Config, parse_shard
from stage1_render_teachers.status import describe, require_store, scene_path, store_status

F = TypeVar("F", bound=Callable[..., Any])


class SlurmFile(click.Path):
    """A TOML file with the keys of SlurmConfig."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        return value if isinstance(value, SlurmConfig) else load_config(SlurmConfig, Path(value))


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def wrap(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return wrap


_scenes = _options(
    click.option("--manifest", required=True, type=click.Path(path_type=Path), help="scenes, from chorus-data index"),
    click.option(
        "--store", required=True, type=StorePathType(), help="folder of the teacher caches, or s3://BUCKET/PATH"
    ),
    click.option("--split", default=None, help="only scenes of this split"),
    click.option("--dataset", default=None, help="only scenes of this data set"),
    click.option("--json", "as_json", is_flag=True, help="print one JSON object"),
)
_settings = _options(
    click.option("--teachers", multiple=True, metavar="SPEC", help="repeatable; default: all embedded teachers"),
    click.option("--config", type=click.Path(path_type=Path), default=None, help="TOML file of settings"),
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="one setting; repeatable"),
    click.option(
        "--workers",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="processes on this machine; 0 = in this process",
    ),
    click.option("--scheduler", default="local", show_default=True, help="local, slurm, or a dask scheduler file"),
    click.option(
        "--slurm",
        type=SlurmFile(),
        default=SlurmConfig(),
        metavar="FILE.toml",
        help="what each Slurm job asks for; keys as in docs/guide/cluster.md",
    ),
    click.option("--device", default="cpu", show_default=True, help="where neural teachers run"),
    click.option("--worker-memory", default="auto", show_default=True, help="limit per local worker, e.g. 8GiB"),
    click.option(
        "--worker-patience",
        type=click.FloatRange(min=1),
        default=7200.0,
        show_default=True,
        help="seconds of silence before a restart",
    ),
    click.option("--overwrite", is_flag=True, help="redo what was made with other settings"),
)


@click.group()
def command() -> None:
    """Stage 1: render scenes, ask the 2D teachers, write one teacher cache per scene."""


@command.command()
@_scenes
@_settings
@click.option("--shard", default="1/1", show_default=True, metavar="I/N", help="every N-th scene from the I-th on")
@click.option(
    "--max-failures",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="stop after this many failed scenes; 0 = never",
)
def run(
    manifest: Path, store: StorePath, split: str | None, dataset: str | None, as_json: bool, teachers: tuple[str, ...],
    config: Path | None, settings: tuple[str, ...], shard: str, max_failures: int, **how: Any,
) -> int:  # fmt: skip
    """Publish the cache of every scene; go on where an earlier run stopped."""
    resolved = _resolve(config, settings, teachers)
    rows = select_rows(Manifest.read(manifest), split, dataset)
    index, count = parse_shard(shard)
    summary = run_stage1(
        shard_rows(rows, index, count), store, resolved, RunConfig(max_failures=max_failures, **how),
        calibration_rows=rows,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(summary.as_dict()))
    else:
        counts = ", ".join(f"{number} {name}" for name, number in sorted(summary.counts.items()))
        stopped = "; stopped early, --max-failures reached" if summary.stopped_early else ""
        click.echo(f"{counts} in {duration(summary.seconds)}, {summary.bytes / 1e6:.1f} MB new in {store}{stopped}")
    return EXIT_SOME_FAILED if summary.failures else EXIT_DONE


@command.command()
@_scenes
@_settings
def calibrate(
    manifest: Path, store: StorePath, split: str | None, dataset: str | None, as_json: bool, teachers: tuple[str, ...],
    config: Path | None, settings: tuple[str, ...], overwrite: bool, **how: Any,
) -> int:  # fmt: skip
    """Fit the PHI-S standardisers that the store lacks (run does so by itself)."""
    resolved = _resolve(config, settings, teachers)
    rows = select_rows(Manifest.read(manifest), split, dataset)
    prepare_store(store)
    how_run = RunConfig(**how)
    here = how_run.client_device
    wanted = dense_specs(resolved, here) if overwrite else missing_standardisers(store, resolved, here)
    paths: list[StorePath] = []
    if wanted:
        with (
            open_pool(how_run) as pool,
            progress(min(resolved.calibration.scenes, len(rows)), "calibration") as report,
        ):
            paths = fit_standardisers(
                rows, store, wanted, resolved, how_run.device, pool, report, overwrite=overwrite, client_device=here
            )
    if as_json:
        click.echo(json.dumps({"fitted": [str(path) for path in paths]}))
    elif paths:
        click.echo("\n".join(f"fitted {path}" for path in paths))
    else:
        click.echo("all standardisers are there; --overwrite fits them again")
    return EXIT_DONE


@command.command()
@_scenes
def status(manifest: Path, store: StorePath, split: str | None, dataset: str | None, as_json: bool) -> int:
    """Done, failed with reasons, pending; speed, time left, size, coverage."""
    state = store_status(select_rows(Manifest.read(manifest), split, dataset), store)
    click.echo(json.dumps(state.as_dict()) if as_json else describe(state))
    return EXIT_SOME_FAILED if state.failed else EXIT_DONE


@command.command()
@_scenes
def verify(manifest: Path, store: StorePath, split: str | None, dataset: str | None, as_json: bool) -> int:
    """Check every byte of every published scene."""
    rows = select_rows(Manifest.read(manifest), split, dataset)
    require_store(store)
    there = set(published_scenes(store))
    published = [row for row in rows if scene_path(store, row) in there]
    problems: dict[str, list[str]] = {}
    with progress(len(published), "verify") as report:
        for row in published:
            if found := verify_store(scene_path(store, row)):
                problems[f"{row.dataset}/{row.scene_id}"] = [f"{problem.where}: {problem.what}" for problem in found]
            report.advance(note=f"{len(problems)} damaged" if problems else "")
    if as_json:
        click.echo(json.dumps({"checked": len(published), "missing": len(rows) - len(published), "problems": problems}))
    else:
        for key, lines in problems.items():
            click.echo("\n".join(f"damaged: {key}: {line}" for line in lines))
        click.echo(
            f"{len(published)} scenes checked, {len(problems)} damaged, {len(rows) - len(published)} not published"
            + ("; run again with --overwrite to redo the damaged ones" if problems else "")
        )
    return EXIT_SOME_FAILED if problems else EXIT_DONE


command.add_command(capture_command)


command.add_command(copy)


def _resolve(path: Path | None, settings: tuple[str, ...], teachers: tuple[str, ...]) -> Stage1Config:
    """Defaults, then the file, then --set, then --teachers."""
    named = [f"teachers={json.dumps(list(teachers))}"] if teachers else []
    return load_config(Stage1Config, path, [*settings, *named])


def main() -> None:
    """Entry point of chorus-stage1."""
    run_cli(command)
