"""A reference page per program, from its click commands: usage, what it does, every argument and option."""

from __future__ import annotations

import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

_ROOT = Path(__file__).parents[2]


def programs() -> dict[str, click.Command]:
    """The programs of pyproject.toml with their click commands, by name."""
    scripts = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    return {name: _command(target.split(":")[0]) for name, target in scripts.items()}


def command_line_pages() -> dict[str, str]:
    """Path of a page below docs/ -> its Markdown."""
    return {f"reference/{name}.md": _page(name, command) for name, command in programs().items()}


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """A command and all below it, each with a context that knows the whole name."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from walk(child, click.Context(child, info_name=name, parent=context))


def root_context(name: str, command: click.Command) -> click.Context:
    """The context of a program that is called `name`."""
    return click.Context(command, info_name=name)


def _command(module: str) -> click.Command:
    """The program of a module that has one: its group, which is called `cli` or `command`."""
    there = vars(importlib.import_module(module))
    return next(there[name] for name in ("cli", "command") if isinstance(there.get(name), click.Group))


def _page(name: str, command: click.Command) -> str:
    parts = [f"# {name}\n"]
    for child, context in walk(command, root_context(name, command)):
        if child is not command:
            parts.append(f"## {context.command_path.removeprefix(name + ' ')}\n")
        parts.append(_help(child))
        usage = " ".join([context.command_path, *child.collect_usage_pieces(context)])
        parts.append(f"```text\n{usage}\n```\n")
        if isinstance(child, click.Group):
            parts.append(_commands(child, context, name))
        if len(child.params) > 0:
            parts.append(_table(child, context))
    return "\n".join(part for part in parts if part)


def _help(command: click.Command) -> str:
    return _escaped(inspect.cleandoc((command.help or "").replace("\b", "").split("\f")[0])) + "\n"


def _commands(group: click.Group, context: click.Context, program: str) -> str:
    rows = []
    for name in group.list_commands(context):
        child = group.get_command(context, name)
        if child is not None and not child.hidden:
            prototype = f"{context.command_path.removeprefix(program)} {name}".strip().replace(" ", "-")
            rows.append(f"| [{name}](#{prototype}) | {_cell(child.get_short_help_str(limit=200))} |")
    return "| command | what it does |\n| --- | --- |\n" + "\n".join(rows) + "\n"


def _table(command: click.Command, context: click.Context) -> str:
    rows = [
        _row(parameter, context) for parameter in command.get_params(context) if not getattr(parameter, "hidden", False)
    ]
    return "| option | what it means | default |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n" if rows else ""


def _row(parameter: click.Parameter, context: click.Context) -> str:
    if isinstance(parameter, click.Argument):
        return f"| `{_code(parameter.make_metavar(context))}` | argument | |"
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    if not getattr(parameter, "is_flag", False):
        names += f" `{_code(parameter.make_metavar(context).removesuffix(' RANGE'))}`"
    told = " ".join(str(getattr(parameter, "help", None) or "").split())
    default = _default(parameter, context)
    if stated := re.search(r"\s*\[default: (.*)\]$", told):
        told, default = told[: stated.start()], _cell(stated[1])
    if parameter.multiple and "several times" not in told and "repeat" not in told:
        told += " May be given several times."
    return f"| {names} | {_cell(told)} | {default} |"


def _default(parameter: click.Parameter, context: click.Context) -> str:
    if parameter.required:
        return "required"
    value: Any = parameter.get_default(context, call=False)
    if value is None or value is False or not isinstance(value, str | int | float | tuple | list | Path):
        return ""
    if value in ((), "", []):
        return ""
    return f"`{_code(', '.join(map(str, value)) if isinstance(value, tuple | list) else str(value))}`"


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _code(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Markdown takes <words> for HTML; between backticks it does not."""
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)
