"""Command-line programs whose help costs nothing: a command's module is imported when that command is called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True)
class LazyCommand:
    """A command that is not imported yet.

    Attributes:
        target: where it lives, "package.module:attribute".
        help: its line in the program's help: the first sentence of its own help.
    """

    target: str
    help: str

    def load(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self.target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


class LazyGroup(click.Group):
    """A click group that imports a command only to run it, or to show the help of that command."""

    def __init__(self, name: str, lazy: Mapping[str, LazyCommand], **settings: Any) -> None:
        super().__init__(name, **settings)
        self.lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.lazy[cmd_name].load() if cmd_name in self.lazy else super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in self.lazy.items()])


def program(name: str, help: str, commands: Mapping[str, LazyCommand], kind: type[LazyGroup] = LazyGroup) -> LazyGroup:
    """A program of ours: `-h` and `--help`, `--version`, defaults shown in the help.

    Args:
        name: as it is called on the command line.
        help: what it is for, one or two sentences.
        commands: name -> command, in the order of the help.
        kind: the group's class.
    """
    version = click.Option(
        ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_show_version,
        help="Show the version and exit.",
    )  # fmt: skip
    return kind(
        name, commands, help=help, params=[version],
        context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    )  # fmt: skip


def _show_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from chorus_common.runtime.version import __version__

    click.echo(f"{context.command.name} {__version__}")
    context.exit()
