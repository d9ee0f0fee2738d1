"""Streamed SOG: lod-meta.json, a tree of space whose leaves name runs of rows in many SOG scenes, one per level of
detail.

Layout (playcanvas/splat-transform write-lod): `lodLevels`; `filenames`: SOG scenes (a folder's meta.json or a .sog)
relative to lod-meta.json; `tree`: nodes with `children`, leaves with `lods`: level -> {file, offset, count}. Level 0 is
the finest. The scene of `environment` (a sky) belongs to no level and is not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chorus_common.scene import GaussianScene
from chorus_common.scene_io.archive import SceneFolder
from chorus_common.scene_io.bounds import MAX_GAUSSIANS, check_count, fail, finish
from chorus_common.scene_io.ksplat import joined_columns
from chorus_common.scene_io.sog import read_meta, read_sog_columns, sog_files, sog_name

LOD_META = "lod-meta.json"


@dataclass(frozen=True)
class _Run:
    """Rows offset to offset + count of file number `file`."""

    file: int
    offset: int
    count: int


def lod_folder(path: Path) -> Path | None:
    """The folder of the streamed scene at `path` (it, or its lod-meta.json); None where it is none."""
    folder = path.parent if path.name == LOD_META else path
    return folder if (folder / LOD_META).is_file() else None


def count_sog_lod(path: Path, lod: int = 0) -> int:
    """Number of Gaussians of level `lod`, from lod-meta.json."""
    return sum(run.count for run in _runs(path, lod)[1])


def read_sog_lod(
    path: Path, *, max_gaussians: int = MAX_GAUSSIANS, label_space: str = "", harmonics: bool = False, lod: int = 0
) -> GaussianScene:
    """Read level `lod` of the scene at `path`, rows in the order of the tree.

    A leaf without that level gives its nearest one. Raises SceneError where the scene has no such level.
    """
    names, runs = _runs(path, lod)
    check_count(path, sum(run.count for run in runs), max_gaussians)
    folder = lod_folder(path)
    assert folder is not None
    files = SceneFolder(folder)
    opened: dict[int, dict[str, Any]] = {}
    parts: list[dict[str, Any]] = []
    for run in runs:
        if run.file not in opened:
            name = names[run.file]
            files.size(name)  # refuses what is missing or leads out of the folder
            own = sog_files(folder / name)
            if own is None:
                fail(path, f"{name} is no SOG scene")
            opened[run.file] = read_sog_columns(folder / name, own, max_gaussians=max_gaussians, harmonics=harmonics)
        columns = opened[run.file]
        if run.offset + run.count > len(columns["means"]):
            fail(path, f"{names[run.file]} has {len(columns['means'])} rows, a leaf wants {run.offset + run.count}")
        rows = slice(run.offset, run.offset + run.count)
        parts.append({key: value[rows] for key, value in columns.items() if isinstance(value, np.ndarray)})
    joined = joined_columns(parts)
    mode = next(iter(opened.values()))["render_mode"]
    return finish(path, **joined, render_mode=mode, name=sog_name(path), label_space=label_space)


def _runs(path: Path, lod: int) -> tuple[list[str], list[_Run]]:
    """Names of the files, and the runs of level `lod` in the tree's order."""
    folder = lod_folder(path)
    assert folder is not None
    meta = read_meta(path, SceneFolder(folder), LOD_META)
    names, levels = meta.get("filenames"), meta.get("lodLevels")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or type(levels) is not int:
        fail(path, f"{LOD_META} has no filenames or lodLevels")
    if not 0 <= lod < levels:
        fail(path, f"has levels of detail 0 to {levels - 1}, not {lod}")
    runs: list[_Run] = []
    waiting: list[Any] = [meta.get("tree")]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict):
            fail(path, f"{LOD_META}: a node of the tree is not an object")
        children, lods = node.get("children"), node.get("lods")
        if isinstance(children, list):
            waiting += reversed(children)
        elif isinstance(lods, dict) and lods and all(key.isascii() and key.isdigit() and len(key) < 9 for key in lods):
            nearest = min(lods, key=lambda key: (abs(int(key) - lod), int(key)))
            run = _run(path, lods[nearest], len(names))
            if run.count:
                runs.append(run)
        elif lods != {}:
            fail(path, f"{LOD_META}: a node of the tree has neither children nor lods")
    return names, runs


def _run(path: Path, entry: Any, n_files: int) -> _Run:
    values: list[Any] = [entry.get(key) for key in ("file", "offset", "count")] if isinstance(entry, dict) else []
    if len(values) != 3 or not all(type(v) is int and 0 <= v < 2**40 for v in values) or values[0] >= n_files:
        fail(path, f"{LOD_META}: a leaf has no file, offset and count")
    return _Run(*values)
