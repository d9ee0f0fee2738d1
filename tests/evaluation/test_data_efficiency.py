from __future__ import annotations

import itertools
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_common.errors import ConfigError
from evaluation.data_efficiency import (
    Limit,
    LimitConfig,
    drawn_points,
    drawn_scenes,
    read_point_lists,
    read_scene_list,
)
from tests.evaluation.labelled_rooms import labelled_scene


def names(n: int) -> list[str]:
    return [f"scene{i:04d}_00" for i in range(n)]


def test_the_benchmark_s_own_numbers_of_scenes() -> None:
    assert [len(drawn_scenes(names(1201), p, 0)) for p in (1, 5, 10, 20, 100)] == [12, 60, 120, 240, 1201]
    assert len(drawn_scenes(names(3), 1, 0)) == 1


@given(st.integers(1, 300), st.integers(0, 99), st.lists(st.floats(0.1, 100), min_size=2, max_size=5))
@settings(max_examples=50, deadline=None)
def test_smaller_shares_are_subsets(n: int, seed: int, shares: list[float]) -> None:
    chosen = [set(drawn_scenes(names(n), p, seed)) for p in sorted(shares)]
    assert all(a <= b for a, b in itertools.pairwise(chosen))
    assert set(drawn_scenes(names(n)[::-1], shares[0], seed)) == set(drawn_scenes(names(n), shares[0], seed))


@given(st.integers(1, 200), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_fewer_points_are_subsets(n: int, seed: int) -> None:
    ids = np.random.default_rng(seed).permutation(10 * n)[:n]
    drawn = [drawn_points(ids, k, seed, "room") for k in (20, 50, 100, 200)]
    assert [len(d) for d in drawn] == [min(n, k) for k in (20, 50, 100, 200)]
    for a, b in itertools.pairwise(drawn):
        assert set(a) <= set(b) <= set(ids.tolist())
    np.testing.assert_array_equal(drawn_points(ids[::-1], 20, seed, "room"), drawn[0])


def test_seeds_and_scenes_draw_differently() -> None:
    ids = np.arange(1000)
    draws = [tuple(drawn_points(ids, 20, seed, name)) for seed in (0, 1) for name in ("a", "b")]
    assert len(set(draws)) == 4
    assert drawn_scenes(names(100), 10, 0) != drawn_scenes(names(100), 10, 1)


def test_labels_are_kept_by_source_row_whatever_the_order() -> None:
    scene = labelled_scene(0)
    limit = Limit.of(LimitConfig(points=20))
    kept = limit.labels(scene, "room")
    assert (kept >= 0).sum() == 20
    known = kept >= 0
    np.testing.assert_array_equal(kept[known], scene.labels[known])
    order = np.random.default_rng(0).permutation(len(scene))
    np.testing.assert_array_equal(limit.labels(scene.select(order), "room"), kept[order])
    assert (Limit.of(LimitConfig()).labels(scene, "room") == scene.labels).all()


@pytest.mark.parametrize("suffix", ["pth", "json"])
def test_official_point_lists(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"points20.{suffix}"
    lists = {"room": [3, 5, 7], "other": [1]}
    if suffix == "json":
        path.write_text(json.dumps(lists))
    else:
        torch.save({name: np.array(rows) for name, rows in lists.items()}, path)
    read = read_point_lists(path)
    assert {name: rows.tolist() for name, rows in read.items()} == lists
    scene = replace(labelled_scene(0), labels=np.zeros(600, np.int32))
    kept = Limit.of(LimitConfig(point_lists=str(path))).labels(scene, "room")
    assert np.flatnonzero(kept >= 0).tolist() == [3, 5, 7]
    with pytest.raises(ConfigError, match=r"no points of scene elsewhere"):
        Limit.of(LimitConfig(point_lists=str(path))).labels(scene, "elsewhere")


def test_official_scene_lists(tmp_path: Path) -> None:
    path = tmp_path / "1.txt"
    path.write_text("scene0001_00\n\nscene0005_00.pth\n")
    assert read_scene_list(path) == ("scene0001_00", "scene0005_00")
    assert Limit.of(LimitConfig(scene_list=str(path))).scene_ids(names(9)) == ["scene0001_00", "scene0005_00"]
    with pytest.raises(ConfigError, match="1 of its 2 scenes"):
        Limit.of(LimitConfig(scene_list=str(path))).scene_ids(names(3))


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_bad_lists_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.pth"
    bad.write_bytes(pickle.dumps({"room": Hostile()}))
    with pytest.raises(ConfigError, match=r"bad.pth: not readable"):
        read_point_lists(bad)
    assert "executed" not in capsys.readouterr().out
    for content in ("[1]", '{"a": [-1]}', '{"a": [[1]]}', '{"a": ["x"]}', "{"):
        (tmp_path / "p.json").write_text(content)
        with pytest.raises(ConfigError, match=r"p.json"):
            read_point_lists(tmp_path / "p.json")
    (tmp_path / "l.txt").write_text("a\na\n")
    with pytest.raises(ConfigError, match="twice"):
        read_scene_list(tmp_path / "l.txt")
    with pytest.raises(ConfigError, match=r"none.txt"):
        read_scene_list(tmp_path / "none.txt")
