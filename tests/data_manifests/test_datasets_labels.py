"""Class tables: counts, groups, ids, split lists; and the table from raw categories to classes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_common.labels import FOREGROUND_EXCLUDED, LABEL_SPACES, SPACES
from chorus_common.runtime.errors import SceneError
from data_manifests.datasets.scannet_labels import read_label_table
from tests.data_manifests.release_makers import TABLE


@pytest.mark.parametrize(
    ("space", "count", "things"),
    [("scannet20", 20, 18), ("scannet200", 200, 198), ("s3dis13", 13, 13), ("matterport160", 160, 160),
     ("scannetpp100", 100, 84), ("matterport21", 21, 21), ("mpcat40", 40, 40), ("holicity4", 4, 4)],
)  # fmt: skip
def test_tables_have_as_many_distinct_classes_as_their_benchmarks(space: str, count: int, things: int) -> None:
    table = SPACES[space]
    assert len(table.names) == len(set(table.names)) == len(set(table.ids)) == len(table.ids) == count
    assert len(table.things) == things
    assert all(name == name.strip() and name for name in table.names)
    assert LABEL_SPACES[space] == table.names
    assert {"floor", "wall", "ceiling"} & set(table.names) == {n for n in FOREGROUND_EXCLUDED if n in table.names}


def test_scannet200_groups_and_the_classes_that_validation_never_shows() -> None:
    space = SPACES["scannet200"]
    assert {group: len(rows) for group, rows in space.groups.items()} == {"head": 66, "common": 68, "tail": 66}
    assert sorted(k for rows in space.groups.values() for k in rows) == list(range(200))
    assert {space.names[k] for k in space.train_only} == {
        "bicycle", "storage container", "candle", "guitar case", "purse", "alarm clock", "music stand", "cd case",
        "structure", "storage organizer", "luggage",
    }  # fmt: skip
    assert [space.names[k] for k in (0, 2, 35)] == ["wall", "floor", "ceiling"]
    assert [space.names[k] for k in space.stuff] == ["wall", "floor"]
    assert "chair" in {space.names[k] for k in space.groups["head"]}
    assert "luggage" in {space.names[k] for k in space.groups["tail"]}


@given(st.lists(st.integers(-3, 1300), max_size=50), st.sampled_from(sorted(SPACES)))
def test_from_ids_equals_a_dictionary(ids: list[int], name: str) -> None:
    space = SPACES[name]
    table = {class_id: k for k, class_id in enumerate(space.ids)}
    labels = space.from_ids(np.array(ids, np.int64))
    assert labels.dtype == np.int16
    assert labels.tolist() == [table.get(i, -1) for i in ids]


def test_split_lists_are_whole_and_apart() -> None:
    lists = {
        split: files("data_manifests").joinpath("splits", f"scannetv2_{split}.txt").read_text().split()
        for split in ("train", "val", "test")
    }
    assert {split: len(ids) for split, ids in lists.items()} == {"train": 1201, "val": 312, "test": 100}
    together = [scene_id for ids in lists.values() for scene_id in ids]
    assert len(set(together)) == 1613
    rooms = {split: {scene_id.split("_")[0] for scene_id in ids} for split, ids in lists.items()}
    assert rooms["test"] == {f"scene{i:04d}" for i in range(707, 807)}
    assert not rooms["train"] & rooms["val"], "scans of one room stay on one side"
    assert rooms["train"] | rooms["val"] == {f"scene{i:04d}" for i in range(707)}


def test_label_table_reads_odd_line_ends_and_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"
    path.write_bytes(TABLE.encode() + b"9\twall\twall\t1\t39\totherfurniture\r\r\n")
    table = read_label_table(path)
    twenty, many = SPACES["scannet20"], SPACES["scannet200"]
    expected = {
        "wall": ("wall", "wall"), "chair": ("chair", "chair"), "office chair": ("chair", "office chair"),
        "candle": ("", "candle"), "odd thing": ("", ""),
    }  # fmt: skip
    for raw, (small, large) in expected.items():
        assert table.label(raw, twenty) == (twenty.names.index(small) if small else -1)
        assert table.label(raw, many) == (many.names.index(large) if large else -1)
    assert "sofa" not in table


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "no such label table"),
        (b"a\tb\n1\t2\n", "has no column raw_category"),
        (b"", "has no column raw_category"),
        (b"id\traw_category\tnyu40id\n1\twall\tone\n", "line 2: nyu40id is 'one'"),
        (b"\xff\xfe\x00", "is not a text table"),
    ],
)
def test_bad_label_tables_give_one_line(tmp_path: Path, data: bytes | None, message: str) -> None:
    path = tmp_path / "labels.tsv"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(SceneError, match=message) as caught:
        read_label_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
