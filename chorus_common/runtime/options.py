"""Command-line options that mean the same in all programs: one name, one default and one wording each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from chorus_common.runtime.store_path import StorePathType

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

#: A file or folder of this machine, as a pathlib.Path.
PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
_MORE = "May be given several times."


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order of the help."""

    def wrap(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return wrap


def store_option(help: str = "Store of the teacher caches: a folder, or s3://BUCKET/PATH.") -> Callable[[F], F]:
    """-> store: the one store that a command works on."""
    return click.option("--store", type=StorePathType(), required=True, help=help)


def stores_option(*, required: bool = True, default: str = "") -> Callable[[F], F]:
    """-> stores: the stores that a command reads. `default`: what is read without any."""
    text = f"Store of teacher caches to read: a folder, or s3://BUCKET/PATH. {_MORE}"
    return click.option(
        "--store", "stores", type=StorePathType(), multiple=True, required=required, help=_with_default(text, default)
    )


def manifest_option(
    *, required: bool = False, default: str = "", help: str = "Manifest of the scenes, made by chorus-data index."
) -> Callable[[F], F]:
    """-> manifest: a path, or an address in a bucket."""
    return click.option("--manifest", type=StorePathType(), required=required, help=_with_default(help, default))


def split_option(help: str = "Only scenes of this split.", default: str | None = None) -> Callable[[F], F]:
    """-> split"""
    return click.option("--split", default=default, help=help)


def dataset_option() -> Callable[[F], F]:
    """-> dataset"""
    return click.option("--dataset", help="Only scenes of this data set.")


def out_option(help: str, kind: click.Path = PATH, *, required: bool = True) -> Callable[[F], F]:
    """-> out"""
    return click.option("--out", type=kind, required=required, help=help)


def config_option(page: str, *, required: bool = False) -> Callable[[F], F]:
    """-> config_path; `page`: the page of the documentation that lists the keys."""
    return click.option(
        "--config", "config_path", type=PATH, required=required, help=f"Settings as a TOML file; {page} lists them."
    )


def set_option(help: str = "One setting, over those of --config.") -> Callable[[F], F]:
    """-> settings: "key=value" each."""
    return click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=f"{help} {_MORE}")


def seed_option(help: str = "Seed of all that is drawn at random.") -> Callable[[F], F]:
    """-> seed"""
    return click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help=help)


def workers_option(help: str = "Processes. They change no byte of the result.") -> Callable[[F], F]:
    """-> workers"""
    return click.option("--workers", type=click.IntRange(1, 256), default=1, help=help)


def scheduler_options() -> Callable[[F], F]:
    """-> scheduler, slurm: where workers run, and what each Slurm job asks for"""
    return together(
        click.option("--scheduler", default="local", help="Where workers run: local, slurm, or a dask scheduler file."),
        click.option(
            "--slurm", type=PATH, metavar="FILE.toml",
            help="What each Slurm job asks for; docs/guide/cluster.md lists the keys.",
        ),
    )  # fmt: skip


def device_option(help: str = "Where networks run: auto, cpu, cuda or cuda:N.") -> Callable[[F], F]:
    """-> device: as torch names it; "auto" is CUDA where this machine has it."""
    return click.option("--device", default="auto", help=help)


def alignment_options() -> Callable[[F], F]:
    """-> alignment: AlignmentSettings, how a scene is brought to z up and metres before it is rendered or encoded."""

    def wrap(function: F) -> F:
        @functools.wraps(function)
        def gathered(*given: Any, up: str, scale: str, outliers: str, **others: Any) -> Any:
            from chorus_common.scene_check.settings import alignment_settings

            return function(*given, alignment=alignment_settings(up, scale, outliers), **others)

        return together(
            click.option("--up", default="auto", help="Upward direction of the file: auto, off (z), -y, or x,y,z."),
            click.option("--scale", default="auto", help="Metres per unit of the file: auto, off (1), or a number."),
            click.option(
                "--outliers",
                default="auto",
                help="Gaussians apart from all others are left out: auto, off, or the gap in metres.",
            ),
        )(gathered)  # type: ignore[return-value]

    return wrap  # fmt: skip


def reading_options(recorded: str = "") -> Callable[[F], F]:
    """-> max_gaussians, lod: how a scene is read.

    recorded: where a command reads these per scene, such as "the manifest's"; both are then None unless they are given.
    """
    most = click.IntRange(min=1)
    level = click.IntRange(min=0)
    large, fine = "Refuse scenes with more Gaussians.", "Level of a streamed scene, 0 the finest."
    if recorded:
        return together(
            click.option(
                "--max-gaussians", type=most, help=f"{large}  [default: 20000000, or as many as were indexed]"
            ),
            click.option("--lod", type=level, help=f"{fine}  [default: {recorded}, else 0]"),
        )
    return together(
        click.option("--max-gaussians", type=most, default=20_000_000, help=large),
        click.option("--lod", type=level, default=0, help=fine),
    )


def json_option(help: str = "Print one JSON object.") -> Callable[[F], F]:
    """-> as_json"""
    return click.option("--json", "as_json", is_flag=True, help=help)


def _with_default(text: str, default: str) -> str:
    return f"{text}  [default: {default}]" if default else text
