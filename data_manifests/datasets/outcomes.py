"""What became of each scene of a preparation, and their table: <out>/outcomes/<data set>.parquet."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chorus_common.runtime.atomic import atomic_path


@dataclass(frozen=True)
class PrepareOutcome:
    """One scene: its summary (scene.json and digest; empty where it failed), the error, whether this run made it."""

    scene_id: str
    split: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    fresh: bool = True


_SCHEMA = pa.schema(
    [
        pa.field("scene_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("points", pa.int64(), nullable=False),
        pa.field("gaussians", pa.int64(), nullable=False),
        pa.field("dropped", pa.int64(), nullable=False),
        pa.field("labels", pa.string(), nullable=False),
        pa.field("notes", pa.list_(pa.string()), nullable=False),
    ]
)


def write_outcomes(path: Path, outcomes: Sequence[PrepareOutcome]) -> Path:
    """Write the table, a row per scene; `labels` is JSON: label space -> counts of the points (else the Gaussians).

    Rows that the table has of other scenes (of other splits, say) stay. Sorted by split and scene.
    """
    ran = {outcome.scene_id for outcome in outcomes}
    rows = [row for row in _rows_there(path) if row["scene_id"] not in ran]
    rows += [
        {
            "scene_id": outcome.scene_id,
            "split": outcome.split,
            "error": outcome.error,
            "points": outcome.summary.get("points", 0),
            "gaussians": outcome.summary.get("gaussians", 0),
            "dropped": outcome.summary.get("dropped", 0),
            "labels": json.dumps(scored_labels(outcome.summary), sort_keys=True),
            "notes": list(outcome.summary.get("notes", [])),
        }
        for outcome in outcomes
    ]
    rows.sort(key=lambda row: (row["split"], row["scene_id"]))
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary, compression="zstd")
    return path


def _rows_there(path: Path) -> list[dict[str, Any]]:
    """Rows of an earlier table; none where there is none, or one of another program."""
    try:
        table = pq.read_table(path, use_threads=False)
    except (OSError, pa.ArrowException):
        return []
    rows: list[dict[str, Any]] = table.to_pylist() if table.schema.equals(_SCHEMA) else []
    return rows


def scored_labels(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of what is scored: the points where there are any, else the Gaussians."""
    return dict(summary.get("point_labels", summary.get("gaussian_labels", {})))


def totals(outcomes: Sequence[PrepareOutcome]) -> dict[str, Any]:
    """Sums over the scenes that did not fail: points, Gaussians, counts per label space, instances, odd readings."""
    good = [outcome for outcome in outcomes if not outcome.error]
    labels: dict[str, Counter[str]] = {}
    instances = 0
    for outcome in good:
        for key, counts in scored_labels(outcome.summary).items():
            if key == "instances":
                instances += counts
            else:
                labels.setdefault(key, Counter()).update(counts)
    return {
        "scenes": len(good), "failed": len(outcomes) - len(good), "new": sum(outcome.fresh for outcome in good),
        "splits": dict(sorted(Counter(outcome.split for outcome in good).items())),
        "points": sum(outcome.summary.get("points", 0) for outcome in good),
        "gaussians": sum(outcome.summary["gaussians"] for outcome in good),
        "labels": {space: dict(sorted(counts.items())) for space, counts in sorted(labels.items())},
        "instances": instances,
        "scenes_with_notes": sum(bool(outcome.summary.get("notes")) for outcome in good),
    }  # fmt: skip
