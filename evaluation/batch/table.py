"""The one table of a batch: a line per cell and row of its result, with the command; as Parquet and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chorus_common.runtime.atomic import atomic_path
from chorus_common.runtime.errors import ConfigError
from evaluation.batch.matrix import Cell
from evaluation.batch.protocols import PROTOCOLS
from evaluation.batch.run import CellOutcome
from evaluation.metrics.retrieval import FIGURES
from evaluation.published import Published, published_for
from evaluation.report.export import markdown_table
from evaluation.results import metrics_of, read_result
from evaluation.scene_scores import SceneScores, scores_path
from evaluation.tasks.finetune import score_of

Line = dict[str, Any]

#: What identifies a line; metrics follow in columns of their own.
_KEYS = ("origin", "task", "protocol", "dataset", "label_space", "encoder", "row", "fold", "seed")
_TAIL = ("n_scenes", "n_excluded", "left_out", "problem", "source", "command")
#: Metrics first, in this order, then whatever else a task reports.
_FIRST = ("miou", "f_miou", "macc", "f_macc", "overall_accuracy", "ap", "ap50", "ap25", *FIGURES)
UNION = "union"


def table_lines(outcomes: Sequence[CellOutcome], out: Path) -> list[Line]:
    """Lines of all cells in their order, a line over the union behind the folds of a cross validation, and the numbers
    published for the label spaces that occur.
    """
    lines: list[Line] = []
    for cells in _by_fold_group(outcomes):
        for outcome in cells:
            lines += _cell_lines(outcome, out)
        if len(cells) > 1 and not any(o.problem for o in cells):
            lines += _union_lines([o.cell for o in cells], out)
    spaces = dict.fromkeys(str(line["label_space"]) for line in lines if line.get("label_space"))
    return [*lines, *(_published_line(p) for space in spaces for p in published_for(space))]


def write_parquet(lines: Sequence[Line], path: Path) -> None:
    """One column per key and metric; missing values are null. The same lines give the same bytes."""
    names = columns(lines)
    whole = {"seed", "n_scenes", "n_excluded"}
    kinds = {n: pa.int64() if n in whole else pa.string() for n in (*_KEYS, *_TAIL)}
    kinds["left_out"] = pa.map_(pa.string(), pa.string())  # scene -> reason
    fields = [pa.field(n, kinds.get(n, pa.float64())) for n in names]
    table = pa.Table.from_pylist([{n: line.get(n) for n in names} for line in lines], schema=pa.schema(fields))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def columns(lines: Iterable[Line]) -> list[str]:
    """All columns in their order."""
    found = dict.fromkeys(key for line in lines for key in line)
    metrics = [k for k in _FIRST if k in found] + [k for k in found if k not in {*_FIRST, *_KEYS, *_TAIL}]
    return [*_KEYS, *metrics, *_TAIL]


def markdown(lines: Sequence[Line], command: str) -> str:
    """The table for people: per task and data set the mean over seeds (and its standard deviation), what was published
    for it, what failed, which scenes were left out and why, and the command of every line.
    """
    ours = [line for line in lines if line["origin"] == "measured"]
    parts = ["# Batch results", "", f"Made by `{command}`. In per cent; over seeds: mean ± standard deviation.", ""]
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in ours:
        groups.setdefault((line["task"], line["dataset"]), []).append(line)
    for (task, dataset), group in groups.items():
        parts += [f"## {task} on {dataset}", "", _summary(group), ""]
    if by_protocol := [line for line in ours if line.get("protocol") and not line["problem"]]:
        parts += ["## By published protocol", "", _protocols(by_protocol), ""]
    published = [line for line in lines if line["origin"] == "published"]
    if published:
        header = ("task", "data", "metric", "method", "printed", "source")
        rows = [
            (p["task"], p["dataset"], metric, p["encoder"], f"{100 * p[metric]:.1f}", p["source"])
            for p in published
            for metric in columns([p])
            if isinstance(p.get(metric), float)
        ]
        parts += [
            "## Published numbers (other data, other protocols: see the source)",
            "",
            markdown_table(header, rows),
        ]
        parts.append("")
    failed = [line for line in ours if line["problem"]]
    if failed:
        reasons = [(_where(line), str(line["problem"])) for line in failed]
        parts += ["## Failed", "", markdown_table(("cell", "reason"), reasons), ""]
    left_out = _left_out(ours)
    if left_out:
        parts += ["## Scenes left out", "", markdown_table(("scene", "reason", "cells"), left_out), ""]
    commands = [(_where(line), f"`{line['command']}`") for line in ours if line["command"]]
    return "\n".join([*parts, "## Commands", "", markdown_table(("line", "command"), commands), ""])


def _summary(group: Sequence[Line]) -> str:
    shown = [line for line in group if not line["problem"]]
    metrics = [
        m for m in columns(shown) if m not in {*_KEYS, *_TAIL} and any(line.get(m) is not None for line in shown)
    ]
    keyed: dict[tuple[str, str, str], list[Line]] = {}
    for line in shown:
        keyed.setdefault((line["encoder"], line["row"], line["fold"]), []).append(line)
    rows = []
    for (encoder, row, fold), same in keyed.items():
        cells = [_spread([line.get(m) for line in same]) for m in metrics]
        counts = [_range([line[key] for line in same]) for key in ("n_scenes", "n_excluded")]
        rows.append((encoder, row, fold, str(len(same)), *cells, *counts))
    return markdown_table(("encoder", "row", "fold", "seeds", *metrics, "scenes", "left out"), rows)


def _protocols(lines: Sequence[Line]) -> str:
    """The same predictions as several publications score them, a line each, with where the protocol was read."""
    means = ("miou", "f_miou", "macc", "f_macc", "overall_accuracy")
    keys = ("dataset", "label_space", "encoder", "row", "protocol", "source")
    keyed: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        keyed.setdefault(tuple(str(line[key]) for key in keys), []).append(line)
    rows = [
        (*key[:-1], *(_spread([x.get(m) for x in same]) for m in means), key[-1]) for key, same in sorted(keyed.items())
    ]
    return markdown_table((*keys[:-1], *means, "read in"), rows)


def _left_out(lines: Sequence[Line]) -> list[tuple[str, str, str]]:
    """(scene, reason, the cells that left it out); rows of one cell and unions of folds say the same once."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for line in lines:
        for scene, reason in line["left_out"].items() if line["fold"] != UNION else ():
            found.setdefault((scene, reason), {})[_where({**line, "row": ""})] = None
    return [(scene, reason, "; ".join(cells)) for (scene, reason), cells in sorted(found.items())]


def _range(counts: Sequence[int]) -> str:
    """One number where all are the same, else the smallest and the greatest."""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _spread(values: Sequence[float | None]) -> str:
    known = np.array([v for v in values if v is not None], dtype=np.float64)
    if len(known) == 0:
        return "–"
    mean = f"{100 * known.mean():.1f}"
    return mean if len(known) < 2 else f"{mean} ± {100 * known.std(ddof=1):.1f}"


def _where(line: Line) -> str:
    parts = (line["task"], line["dataset"], line["encoder"], line["row"], line["fold"])
    return " / ".join([*(p for p in parts if p), f"seed {line['seed']}"])


def _by_fold_group(outcomes: Sequence[CellOutcome]) -> list[list[CellOutcome]]:
    """Cells that differ in their fold alone, together."""
    groups: dict[tuple[Any, ...], list[CellOutcome]] = {}
    for outcome in outcomes:
        cell = outcome.cell
        groups.setdefault((cell.task, cell.dataset, cell.encoder, cell.seed), []).append(outcome)
    return list(groups.values())


def _base(cell: Cell) -> Line:
    return {
        "origin": "measured",
        "task": cell.task,
        "protocol": cell.protocol,
        "dataset": cell.dataset,
        "encoder": cell.encoder,
        "fold": cell.fold,
        "seed": cell.seed,
        "source": PROTOCOLS[cell.protocol].source if cell.protocol else "",
    }


def _cell_lines(outcome: CellOutcome, out: Path) -> list[Line]:
    cell = outcome.cell
    if outcome.problem:
        missing: Line = {
            "label_space": "",
            "row": "",
            "n_scenes": None,
            "n_excluded": None,
            "left_out": {},
            "command": "",
        }
        return [_base(cell) | missing | {"problem": outcome.problem}]
    document = read_result(cell.result(out))
    known = {
        "label_space": str(document["inputs"].get("label_space", "")),
        "n_scenes": len(document["per_scene"]),
        "n_excluded": len(document["excluded"]),
        "left_out": document["excluded"],
        "problem": "",
        "command": document["command"],
    }
    return [
        _base(cell) | known | {"row": row} | metrics_of(values) for row, values in _rows_of(document, cell.protocol)
    ]


def _rows_of(document: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a result; under a protocol those that it is about, with the means that it prints."""
    rows = list(document["rows"].items())
    if not name:
        return rows
    protocol = PROTOCOLS[name]
    rows = [(row, values) for row, values in rows if bool(values.get("oracle")) == protocol.oracle]
    if protocol.definition == "chorus":
        return rows
    return [(row, values["published_definitions"][protocol.definition]) for row, values in rows]


def _union_lines(cells: Sequence[Cell], out: Path) -> list[Line]:
    """One confusion matrix (and one list of matches) over the scenes of all folds: means of folds are no 6-fold score.

    Empty where the task keeps no counts per scene.
    """
    paths = [scores_path(cell.result(out)) for cell in cells]
    if not all(path.is_file() for path in paths):
        return []
    total = SceneScores.read(paths[0])
    for path in paths[1:]:
        total.merge(SceneScores.read(path))
    documents = [read_result(cell.result(out)) for cell in cells]
    left_out = {name: reason for d in documents for name, reason in d["excluded"].items()}
    known = {
        "fold": UNION,
        "label_space": str(documents[0]["inputs"].get("label_space", "")),
        "n_scenes": sum(len(d["per_scene"]) for d in documents),
        "n_excluded": len(left_out),
        "left_out": left_out,
        "problem": "",
        "command": " && ".join(d["command"] for d in documents),
    }
    return [_base(cells[0]) | known | {"row": row} | metrics_of(score_of(total, row)) for row in total.semantic]


def _published_line(p: Published) -> Line:
    note = f"{p.source}; {p.note}" if p.note else p.source
    return {
        "origin": "published",
        "task": p.task,
        "dataset": p.dataset,
        "label_space": p.dataset.split(" ")[0],
        "encoder": p.method,
        "row": "",
        "fold": "",
        "seed": None,
        p.metric: p.percent / 100,
        "n_scenes": None,
        "n_excluded": None,
        "left_out": {},
        "problem": "",
        "source": note,
        "command": "",
    }


def read_table(path: Path) -> list[Line]:
    """Lines of a table that `write_parquet` wrote. Raises ConfigError where it is none."""
    try:
        lines = pq.read_table(path, use_threads=False).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: no readable results table ({' '.join(str(error).split())[:100]})") from None
    if lines and not {*_KEYS, *_TAIL} <= lines[0].keys():
        raise ConfigError(f"{path}: not a results table of chorus-eval batch")
    return [line | {"left_out": dict(line["left_out"])} for line in lines]
