"""What happened to each scene of a run, kept in small Parquet files beside the caches.

An outcome never decides whether a scene is done: only the published store does. Outcomes tell why a scene failed, how
long each step took and how large the result is.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from chorus_common.runtime.atomic import write_bytes_atomically
from chorus_common.runtime.errors import CacheError
from chorus_common.runtime.store_path import StorePath

Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class SceneOutcome:
    """One scene of one run.

    Attributes:
        status: "done" (published now), "skipped" (was published before with the same fingerprint) or "failed".
        error: one line, empty unless failed.
        seconds: step -> seconds of wall clock (read, views, render, teachers, ..., total).
        bytes: size of the published store.
        coverage: share of Gaussians that enough views see.
        empty_pixels: mean share of the pixels of a view that show nothing.
        mostly_empty: whether that is more than a scene of its kind can explain.
        kind: what a scene is whose views were chosen: "interior", "object" or "outdoors"; "" with cameras of its own.
        interior_coverage: share of the Gaussians of an interior's rooms that enough of its chosen views see.
        notes: what the scene check found and did, a line each.
        peak_memory: bytes, the largest resident size of the worker up to the end of this scene.
        errors: teacher -> {"token_cosine": ..., "lifted_cosine": ..., "lifted_cosine_p01": ...}.
        transient: a failure that trying again may cure.
        finished: seconds since 1970.
    """

    dataset: str
    scene_id: str
    status: Status
    error: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: int = 0
    n_gaussians: int = 0
    n_views: int = 0
    coverage: float = 0.0
    empty_pixels: float = 0.0
    mostly_empty: bool = False
    kind: str = ""
    interior_coverage: float | None = None
    notes: tuple[str, ...] = ()
    peak_memory: int = 0
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    transient: bool = False
    finished: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.dataset}/{self.scene_id}"


_NUMBERS = pa.map_(pa.string(), pa.float64())
SCHEMA = pa.schema(
    [
        ("dataset", pa.string()), ("scene_id", pa.string()), ("status", pa.string()), ("error", pa.string()),
        ("seconds", _NUMBERS), ("bytes", pa.int64()), ("n_gaussians", pa.int64()), ("n_views", pa.int64()),
        ("coverage", pa.float64()), ("empty_pixels", pa.float64()), ("mostly_empty", pa.bool_()),
        ("kind", pa.string()), ("interior_coverage", pa.float64()),
        ("notes", pa.list_(pa.string())), ("peak_memory", pa.int64()), ("errors", pa.map_(pa.string(), _NUMBERS)),
        ("transient", pa.bool_()), ("finished", pa.float64()),
    ]
)  # fmt: skip

#: Rows per file. A flush rewrites the current file, so its cost is bounded however long the run.
ROWS_PER_FILE = 512


class OutcomeLog:
    """Appends outcomes to `<store>/outcomes/`, each flush an atomic rewrite of the current file.

    Every run has files of its own, so shards on several machines never write to the same one. Up to `every` seconds of
    outcomes are lost when the process is killed; the scenes themselves are not.
    """

    def __init__(self, store: StorePath, *, every: float = 2.0) -> None:
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self._folder, self._stem = store / "outcomes", f"{started}-{socket.gethostname()}-{os.getpid()}"
        self._every, self._last = every, time.monotonic()
        self._part, self._rows, self._written = 0, list[SceneOutcome](), 0

    def add(self, outcome: SceneOutcome) -> None:
        self._rows.append(outcome)
        if len(self._rows) >= ROWS_PER_FILE or time.monotonic() - self._last >= self._every:
            self.flush()

    def flush(self) -> None:
        """Write what is new; afterwards it survives a kill."""
        if self._written == len(self._rows):
            return
        self._last = time.monotonic()
        content = io.BytesIO()
        pq.write_table(to_table(self._rows), content)
        write_bytes_atomically(self._folder / f"{self._stem}-{self._part:04d}.parquet", content.getvalue())
        self._written = len(self._rows)
        if len(self._rows) >= ROWS_PER_FILE:
            self._part, self._rows, self._written = self._part + 1, [], 0

    def __enter__(self) -> OutcomeLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


def to_table(outcomes: Iterable[SceneOutcome]) -> pa.Table:
    return pa.Table.from_pylist([asdict(outcome) for outcome in outcomes], schema=SCHEMA)


def read_outcomes(store: StorePath) -> dict[str, SceneOutcome]:
    """The last outcome of every scene that any run on `store` has met, by "dataset/scene_id".

    A skipped scene says nothing new, so its earlier outcome stands where there is one. Raises CacheError for a file
    that cannot be read.
    """
    rows: list[SceneOutcome] = []
    files: list[StorePath] = list((store / "outcomes").glob("[!.]*.parquet"))
    for path in sorted(files, key=str):
        try:
            table = _read_table(path.read_bytes())
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise CacheError(
                f"{path}: not a readable outcome file ({error}); delete it, the scenes are unaffected"
            ) from None
        rows += [SceneOutcome(**_from_row(row)) for row in table.to_pylist()]
    latest: dict[str, SceneOutcome] = {}
    for outcome in sorted(rows, key=lambda row: row.finished):
        if outcome.status != "skipped" or outcome.key not in latest or latest[outcome.key].status == "failed":
            latest[outcome.key] = outcome
    return latest


def _read_table(content: bytes) -> pa.Table:
    """A file of outcomes; columns that it does not have are null.

    Without Arrow's threads: one that still holds a Python object while the interpreter ends aborts the program after
    its work is done (apache/arrow 34314), and outcomes are what a run reads last.
    """
    with pq.ParquetFile(pa.BufferReader(content), pre_buffer=False) as file:
        found = file.read(use_threads=False)
    columns = [
        found[field.name].cast(field.type) if field.name in found.column_names else pa.nulls(len(found), field.type)
        for field in SCHEMA
    ]
    return pa.table(columns, schema=SCHEMA)


def _from_row(row: dict[str, Any]) -> dict[str, Any]:
    seconds = dict(row.pop("seconds") or ())
    errors = {name: dict(values or ()) for name, values in row.pop("errors") or ()}
    # files of runs that knew no such column read as null
    row |= {
        "notes": tuple(row["notes"] or ()),
        "kind": row["kind"] or "",
        "empty_pixels": row["empty_pixels"] or 0.0,
        "mostly_empty": bool(row["mostly_empty"]),
    }
    return {**row, "seconds": seconds, "errors": errors, "transient": bool(row["transient"])}
