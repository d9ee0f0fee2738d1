"""Over-segmentations and objects as ScanNet, ScanNet++ and Matterport3D write them: JSON with segIndices, JSON with
segGroups.
"""

from __future__ import annotations

import json
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
