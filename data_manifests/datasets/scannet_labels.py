"""scannetv2-labels.combined.tsv: from the raw categories that annotators typed to the ids of NYU40 and ScanNet200."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from chorus_common.labels import LabelSpace
from chorus_common.runtime.errors import SceneError

_RAW = "raw_category"


@dataclass(frozen=True)
class LabelTable:
    """Raw category -> (column -> text)."""

    path: Path
    rows: Mapping[str, Mapping[str, str]]

    def __contains__(self, raw_category: str) -> bool:
        return raw_category in self.rows

    def label(self, raw_category: str, space: LabelSpace) -> int:
        """Class index of a raw category in `space`, -1 for none of its classes. KeyError: not in the table."""
        text = self.rows[raw_category][space.table_column]
        return space.ids.index(int(text)) if text and int(text) in space.ids else -1


@lru_cache(maxsize=4)
def read_label_table(path: Path) -> LabelTable:
    """Read the table; its lines end in CR CR LF in the copies that go round. Of two rows with one raw category the
    first counts.

    Raises SceneError: missing, or without the columns that are read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise SceneError(f"{path}: no such label table; it belongs to the ScanNet release") from None
    except UnicodeDecodeError:
        raise SceneError(f"{path}: is not a text table") from None
    lines = [line.split("\t") for line in re.split(r"[\r\n]+", text) if line]
    header = lines[0] if lines else []
    if missing := [column for column in (_RAW, "nyu40id", "id") if column not in header]:
        raise SceneError(f"{path}: has no column {missing[0]}; is it scannetv2-labels.combined.tsv?")
    rows: dict[str, dict[str, str]] = {}
    for number, cells in enumerate(lines[1:], start=2):
        row = dict(zip(header, cells))  # trailing empty cells are sometimes cut off
        for column in ("nyu40id", "id"):
            if not re.fullmatch(r"\d*", row.setdefault(column, "")):
                raise SceneError(f"{path}: line {number}: {column} is {row[column][:20]!r}, not a number")
        rows.setdefault(row[_RAW], row)
    return LabelTable(path, rows)
