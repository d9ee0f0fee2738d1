"""Options that several commands of stage 1 share, and the settings they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chorus_common.runtime.options import (
    alignment_options,
    config_option,
    dataset_option,
    device_option,
    json_option,
    manifest_option,
    scheduler_options,
    set_option,
    split_option,
    store_option,
    together,
)
from chorus_common.runtime.progress import duration

if TYPE_CHECKING:
    from chorus_common.scene_check import AlignmentSettings
    from stage1_render_teachers.run import RunSummary
    from stage1_render_teachers.settings import RunConfig, Stage1Config

F = TypeVar("F", bound=Callable[..., Any])

#: -> manifest (may be None), store, split, dataset, as_json
exchange_options = together(manifest_option(), store_option(), split_option(), dataset_option(), json_option())
#: -> manifest, store, split, dataset, as_json
scene_options = together(
    manifest_option(required=True), store_option(), split_option(), dataset_option(), json_option()
)
#: -> what `run_config` takes of work that needs no network
how_options = together(
    click.option("--workers", type=click.IntRange(min=0), default=0, help="Processes; 0 works in this one."),
    scheduler_options(),
    click.option("--worker-memory", default="auto", help="Memory limit of each local worker, such as 8GiB."),
    click.option(
        "--worker-patience", type=click.FloatRange(min=1), default=7200.0,
        help="Seconds of silence after which a worker is replaced.",
    ),
    click.option("--overwrite", is_flag=True, help="Do again what was made with other settings."),
)  # fmt: skip
#: -> teachers, config_path, settings, and what `run_config` takes
work_options = together(
    click.option(
        "--teachers", multiple=True, metavar="[NAME=]SPEC",
        help="One teacher. May be given several times.  [default: the embedded ones]",
    ),
    config_option("docs/guide/stage1.md"),
    set_option(),
    alignment_options(),
    device_option("Where neural teachers run: auto, cpu, cuda or cuda:N."),
    how_options,
)  # fmt: skip


def stage1_config(
    path: Path | None, settings: tuple[str, ...], teachers: tuple[str, ...], alignment: AlignmentSettings
) -> Stage1Config:
    """Defaults, then the file, then --set, then --teachers, --up, --scale and --outliers."""
    from chorus_common.runtime.config import load_config
    from stage1_render_teachers.settings import Stage1Config

    named = [f"teachers={json.dumps(list(teachers))}"] if teachers else []
    return load_config(Stage1Config, path, [*settings, *named, *aligned_settings(alignment)])


def aligned_settings(alignment: AlignmentSettings) -> list[str]:
    """What --up, --scale and --outliers say, as settings; nothing where they say "auto"."""
    from chorus_common.scene_check.words import AUTO

    return [f"alignment.{key}={json.dumps(value)}" for key, value in alignment.model_dump().items() if value != AUTO]


def run_config(slurm: Path | None, **how: Any) -> RunConfig:
    """How the work is spread; `slurm`: a TOML file with the keys of SlurmConfig."""
    from chorus_common.cluster.slurm_jobs import SlurmConfig
    from chorus_common.runtime.config import load_config
    from stage1_render_teachers.settings import RunConfig

    return RunConfig(slurm=load_config(SlurmConfig, slurm), **how)


def shard_option() -> Callable[[F], F]:
    """-> shard"""
    return click.option("--shard", default="1/1", metavar="I/N", help="Every N-th scene from the I-th on.")


def summary_line(summary: RunSummary, where: object) -> str:
    """What a run over many scenes did, for people."""
    counts = ", ".join(f"{number} {name}" for name, number in sorted(summary.counts.items()))
    stopped = "; stopped early, --max-failures reached" if summary.stopped_early else ""
    return f"{counts} in {duration(summary.seconds)}, {summary.bytes / 1e6:.1f} MB new in {where}{stopped}"
