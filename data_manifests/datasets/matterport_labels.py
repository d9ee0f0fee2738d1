"""category_mapping.tsv of Matterport3D: from the categories that annotators typed to the classes of a label space.

Which column says it: nyu40id for the classes of ScanNet20 and of Matterport's 21 (OpenScene
preprocess_3d_matterport.py), nyuClass, by name, for the 160 most frequent ones (its
preprocess_3d_matterport_K_num_classes.py), mpcat40index for the release's own 40.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chorus_common.labels import SPACES
from chorus_common.runtime.errors import SceneError


class _Column(NamedTuple):
    """A column of the table, and whether it holds the label space's ids (else its names)."""

    name: str
    holds_ids: bool


_COLUMNS = {
    "scannet20": _Column("nyu40id", True),
    "matterport21": _Column("nyu40id", True),
    "matterport160": _Column("nyuClass", False),
    "mpcat40": _Column("mpcat40index", True),
}

#: Label spaces that the table leads to.
MATTERPORT_SPACES = tuple(_COLUMNS)


class CategoryTable:
    """Row k (counted from 1, as the meshes' category_id is) -> class of a label space."""

    def __init__(self, path: Path, rows: list[dict[str, str]]) -> None:
        self.path = path
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def labels(self, space: str) -> NDArray[np.int16]:
        """[len + 1] class index of every category id; -1 for id 0 (nothing) and for categories outside the space.

        Raises SceneError where the table says something else than a number in a column of ids.
        """
        column, names = _COLUMNS[space], SPACES[space].names
        found = np.full(len(self._rows) + 1, -1, np.int16)
        for k, row in enumerate(self._rows, start=1):
            text = row[column.name]
            if not column.holds_ids:
                found[k] = names.index(text) if text in names else -1
            elif not re.fullmatch(r"\d{0,9}", text):
                raise SceneError(f"{self.path}: line {k + 1}: {column.name} is {text[:20]!r}, not a number")
            elif text and int(text) in SPACES[space].ids:
                found[k] = SPACES[space].ids.index(int(text))
        return found


@lru_cache(maxsize=4)
def read_category_table(path: Path) -> CategoryTable:
    """Read the table. Raises SceneError: missing, without the columns that are read, or its rows are not counted from 1
    (a mesh names a category by its number).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise SceneError(
            f"{path}: no such table of categories; it lies in metadata/ of the release's repository "
            "(release.label_table names another place)"
        ) from None
    except UnicodeDecodeError:
        raise SceneError(f"{path}: is not a text table") from None
    lines = [line.split("\t") for line in re.split(r"[\r\n]+", text) if line]
    header = lines[0] if lines else []
    wanted = ["index", *dict.fromkeys(column.name for column in _COLUMNS.values())]
    if missing := [name for name in wanted if name not in header]:
        raise SceneError(f"{path}: has no column {missing[0]}; is it category_mapping.tsv?")
    rows = []
    for number, cells in enumerate(lines[1:], start=1):
        row = dict.fromkeys(wanted, "") | dict(zip(header, cells))  # trailing empty cells are sometimes cut off
        if row["index"] != str(number):
            raise SceneError(f"{path}: line {number + 1}: index is {row['index'][:20]!r}, expected {number}")
        rows.append({name: row[name] for name in wanted})
    return CategoryTable(path, rows)
