"""Over-segmentations and objects as ScanNet, ScanNet++ and Matterport3D write them: JSON with segIndices, JSON with
segGroups.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.scene_io.bounds import fail


@dataclass(frozen=True, eq=False)
class Group:
    """One object: its id, the class that the annotator typed, and its segments [S] i64."""

    object_id: int
    label: str
    segments: NDArray[np.int64]

    def rows(self, segment_ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
        """Positions of its segments in the ascending `segment_ids`, and how many of its segments are not there."""
        rows = np.minimum(np.searchsorted(segment_ids, self.segments), len(segment_ids) - 1)
        rows = np.unique(rows[segment_ids[rows] == self.segments])
        return rows, len(np.unique(self.segments)) - len(rows)


def read_segment_indices(file: Path, n: int, what: str = "vertices") -> NDArray[np.int64]:
    """The segment [n] of each of the mesh's `n` vertices (or faces, as `what` says). Raises SceneError where they do
    not fit.
    """
    indices = _list(file, "segIndices")
    try:
        array = np.array(indices)
    except ValueError:
        array = np.empty(0)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        fail(file, "segIndices is not a list of integers")
    if len(array) != n:
        fail(file, f"has segments for {len(array)} {what}, but the mesh has {n}")
    return array.astype(np.int64)


def read_groups(file: Path) -> list[Group]:
    """Objects in file order. Raises SceneError where one is damaged, or two have one id."""
    groups: list[Group] = []
    for i, group in enumerate(_list(file, "segGroups")):
        try:
            object_id, raw = group.get("objectId", group.get("id")), group["label"]
            segments = np.array(group["segments"], dtype=np.int64).reshape(-1)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            fail(file, f"segGroups[{i}] is damaged; expected objectId, label and segments")
        if type(object_id) is not int or not 0 <= object_id < 2**31 or not isinstance(raw, str):
            fail(file, f"segGroups[{i}] has objectId {object_id!r} and label {raw!r:.60}")
        groups.append(Group(object_id, raw, segments))
    if len({group.object_id for group in groups}) < len(groups):
        fail(file, "two objects have the same objectId")
    return groups


def last_owners(
    file: Path, groups: Sequence[Group], segment_ids: NDArray[np.int64], notes: list[str]
) -> NDArray[np.int64]:
    """For each of the ascending `segment_ids` the position of the last group of `file` that holds it, -1 for none.

    Segments that are not there, or that several groups hold, are noted. Raises SceneError where none is there.
    """
    owner = np.full(len(segment_ids), -1, np.int64)
    absent = shared = 0
    for position, group in enumerate(groups):
        rows, missing = group.rows(segment_ids)
        absent += missing
        shared += int(np.count_nonzero(owner[rows] >= 0))
        owner[rows] = position
    if absent and (owner < 0).all():
        fail(file, "names no segment of the mesh; does it belong to another scan?")
    if absent:
        notes.append(f"{absent} segments of objects are not in the mesh")
    if shared:
        notes.append(f"{shared} segments belong to two objects; the later one owns them")
    return owner


def _list(file: Path, key: str) -> list[Any]:
    """The list called `key` of a JSON file."""
    if not file.is_file():
        fail(file, "no such file; the scan cannot be labelled without it")
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        fail(file, f"is not valid JSON ({' '.join(str(error).split())[:80]}); truncated?")
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        fail(file, f"has no list {key}")
    return found
