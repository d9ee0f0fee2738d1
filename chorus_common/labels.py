"""Class tables of the benchmarks, in benchmark order. Facts, checked in once; nobody keeps a second list.

Sources, each compared in two places:

- ScanNet20, ScanNet200: ids, names, head / common / tail, train-only classes (ScanNet/ScanNet BenchmarkScripts/
  ScanNet200/scannet200_constants.py and scannet200_splits.py; Pointcept ships the same files; each id's name agrees
  with scannetv2-labels.combined.tsv).
- S3DIS: its own file names, in the order of PointNet's and Pointcept's code.
- Matterport160: the 160 most frequent NYU classes of Matterport3D (OpenScene dataset/label_constants.py, SceneSplat
  matterport_nyu160_labels.txt), spelled as there.
- Matterport21: ScanNet20's classes and the ceiling (OpenScene, SceneSplat matterport_labels_21.txt; SceneSplat-Bench).
- mpcat40: the release's own 40 classes (niessner/Matterport metadata/mpcat40.tsv; category_mapping.tsv has the same),
  with spaces for underscores, since text encoders are asked about them.
- HoliCity 4: SceneSplat semseg_labels.txt, the outdoor part of SceneSplat-Bench.
- ScanNet++ 100: the benchmark's top100.txt and top100_instance.txt (ScanNet++ toolbox; SceneSplat ships the same).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

#: ScanNet20 (ids 1-12, 14, 16, 24, 28, 33, 34, 36, 39 of NYU40), in ascending NYU40 order.
SCANNET20 = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture",
    "counter", "desk", "curtain", "refrigerator", "shower curtain", "toilet", "sink", "bathtub", "other furniture",
)  # fmt: skip
SCANNET20_NYU40_IDS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)

#: ScanNet20 and the ceiling, which comes last.
MATTERPORT21 = (*SCANNET20, "ceiling")

#: Matterport3D's own classes, in the order of its table; 0 is "void" there and 41 "unlabeled".
MPCAT40 = (
    "wall", "floor", "chair", "door", "table", "picture", "cabinet", "cushion", "window", "sofa", "bed", "curtain",
    "chest of drawers", "plant", "sink", "stairs", "ceiling", "toilet", "stool", "towel", "mirror", "tv monitor",
    "shower", "column", "bathtub", "counter", "fireplace", "lighting", "beam", "railing", "shelving", "blinds",
    "gym equipment", "seating", "board panel", "furniture", "appliances", "clothes", "objects", "misc",
)  # fmt: skip

#: Outdoor classes of HoliCity in SceneSplat-Bench.
HOLICITY4 = ("buildings", "roads", "terrains", "trees")

#: S3DIS, in the order of its benchmark code.
S3DIS13 = (
    "ceiling",
    "floor",
    "wall",
    "beam",
    "column",
    "window",
    "door",
    "table",
    "chair",
    "sofa",
    "bookcase",
    "board",
    "clutter",
)

#: Classes that f-mIoU and f-mAcc leave out of the mean (SceneSplat; never out of the data).
FOREGROUND_EXCLUDED = ("wall", "floor", "ceiling")


@dataclass(frozen=True)
class LabelSpace:
    """The classes of one benchmark; a label is an index into `names`, -1 means none of them.

    Attributes:
        name: key of `SPACES`.
        names: class names in benchmark order; they are also what text encoders are asked about.
        ids: each class's number in the release's own files and submissions.
        file: stem of the label file in a folder of .npy files (SceneSplat's and Pointcept's name where theirs names the
            space); "pc_" before it names the labels of the points.
        table_column: column of scannetv2-labels.combined.tsv that holds `ids`, "" where that table says nothing.
        groups: e.g. head, common, tail -> class indices; disjoint and complete where there are any.
        train_only: class indices that the validation split never shows.
        stuff: class indices that are no instances.
    """

    name: str
    names: tuple[str, ...]
    ids: tuple[int, ...]
    file: str
    table_column: str = ""
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))
    train_only: tuple[int, ...] = ()
    stuff: tuple[int, ...] = ()

    @property
    def things(self) -> tuple[int, ...]:
        """Class indices that instance benchmarks score."""
        return tuple(k for k in range(len(self.names)) if k not in self.stuff)

    def from_ids(self, ids: NDArray[np.integer]) -> NDArray[np.int16]:
        """Labels of an array of the release's ids; -1 for every id that is no class here."""
        order = np.argsort(self.ids)
        known = np.asarray(self.ids)[order]
        at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[at] == ids, order[at], -1).astype(np.int16)


def _table(name: str) -> list[dict[str, str]]:
    """Rows of a checked-in class table."""
    lines = files("chorus_common").joinpath("class_tables", f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    header = lines[0].split("\t")
    return [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]


def _rows(table: list[dict[str, str]], column: str, value: str) -> tuple[int, ...]:
    return tuple(k for k, row in enumerate(table) if row[column] == value)


def _scannet200() -> LabelSpace:
    table = _table("scannet200")
    return LabelSpace(
        "scannet200",
        tuple(row["name"] for row in table),
        tuple(int(row["id"]) for row in table),
        "segment200",
        "id",
        MappingProxyType({group: _rows(table, "group", group) for group in ("head", "common", "tail")}),
        _rows(table, "train_only", "1"),
        stuff=tuple(k for k, row in enumerate(table) if row["name"] in ("wall", "floor")),
    )


def _counted(name: str, file: str) -> LabelSpace:
    """A space whose ids are simply the rows of its table."""
    table = _table(name)
    names = tuple(row["name"] for row in table)
    stuff = _rows(table, "instance", "0") if "instance" in table[0] else ()
    return LabelSpace(name, names, tuple(range(len(names))), file, stuff=stuff)


SPACES: Mapping[str, LabelSpace] = MappingProxyType(
    {
        space.name: space
        for space in (
            LabelSpace("scannet20", SCANNET20, SCANNET20_NYU40_IDS, "segment20", "nyu40id", stuff=(0, 1)),
            _scannet200(),
            LabelSpace("s3dis13", S3DIS13, tuple(range(len(S3DIS13))), "segment"),
            LabelSpace("matterport21", MATTERPORT21, (*SCANNET20_NYU40_IDS, 22), "segment_matterport21"),
            _counted("matterport160", "segment_nyu_160"),
            LabelSpace("mpcat40", MPCAT40, tuple(range(1, 41)), "segment_mpcat40"),
            LabelSpace("holicity4", HOLICITY4, tuple(range(len(HOLICITY4))), "segment"),
            _counted("scannetpp100", "segment"),
        )
    }
)

SCANNET200 = SPACES["scannet200"].names
MATTERPORT160 = SPACES["matterport160"].names
SCANNETPP100 = SPACES["scannetpp100"].names

#: Label space -> class names.
LABEL_SPACES: dict[str, tuple[str, ...]] = {name: space.names for name, space in SPACES.items()}
