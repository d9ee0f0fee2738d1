"""Result files: what a task found, with everything needed to read and to repeat it. Same input, same bytes."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from chorus_common.runtime.atomic import write_text_atomically
from chorus_common.runtime.cli import LazyGroup
from chorus_common.runtime.errors import ConfigError

FORMAT = "chorus-result/1"
_COMMAND = "evaluation.command"


class RecordingGroup(LazyGroup):
    """A click group that remembers the command as it was given, for `command_line`."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        given = list(args)  # click empties `args`
        context = super().make_context(info_name, args, parent, **extra)
        context.meta[_COMMAND] = shlex.join([self.name or "chorus-eval", *given])
        return context


def command_line() -> str:
    """The command that is running, as one can paste it into a shell."""
    return str(click.get_current_context().meta.get(_COMMAND, ""))


def result_document(task: str, command: str, inputs: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """The common frame of all results: task, command and inputs, then the task's own entries."""
    return {"format": FORMAT, "task": task, "command": command, "inputs": dict(inputs), **body}


def write_result(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON, atomically, with keys in the order given. NaN is refused: it is not JSON."""
    write_text_atomically(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def read_result(path: Path) -> dict[str, Any]:
    """Read a result of any task. Raises ConfigError for what is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such result") from None
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: not a readable result ({error})") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConfigError(f"{path}: not a result of chorus-eval (format {FORMAT})")
    return document


def find_results(run: Path) -> dict[str, dict[str, Any]]:
    """Results in the folder `run` by file name, in the order of the names; other files are passed over."""
    found = {}
    for path in sorted(run.glob("*.json")):
        with contextlib.suppress(ConfigError):
            found[path.name] = read_result(path)
    return found


def metrics_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The means of a row of any result, by name: its own numbers; those of "instances"; of retrieval the means over
    perturbations, and those under each as recall_at_1_turn-90; head, common, tail as ap_tail or miou_tail.
    """
    instances, mean = row.get("instances"), row.get("mean")
    parts = [row, *(part for part in (instances, mean) if isinstance(part, Mapping))]
    found = {k: v for part in parts for k, v in part.items() if isinstance(v, float)}
    if isinstance(mean, Mapping):
        for perturbation, figures in row.items():
            if isinstance(figures, Mapping) and figures is not mean:
                found |= {f"{k}_{perturbation}": v for k, v in figures.items() if isinstance(v, float)}
    for part in parts:
        for group, means in (part.get("groups") or {}).items():
            found |= {f"{k}_{group}": v for k, v in means.items() if isinstance(v, float)}
    return found


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Plain aligned columns for a terminal; numbers in percent with one decimal, '-' for what is missing."""
    cells = [list(header), *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(str(row[i])) for row in cells) for i in range(len(header))]
    return "\n".join(
        "  ".join(str(c).ljust(w) if i == 0 else str(c).rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
        for row in cells
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if isinstance(value, float) else str(value)
