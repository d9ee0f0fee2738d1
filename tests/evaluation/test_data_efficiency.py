from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import GaussianScene
from evaluation.data_efficiency import (
    Limit,
    LimitConfig,
    drawn_points,
    drawn_scenes,
    read_scene_list,
)
from evaluation.scenes import EvalScene, LoadedScene
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


def seen(limit: Limit, scene: GaussianScene) -> np.ndarray:
    """The labels that may be seen of a scene in memory."""
    labels = limit.annotated(LoadedScene(EvalScene("toy", "room"), scene, None), "scannet20").labels
    assert labels is not None
    return labels


def test_labels_are_kept_by_source_row_whatever_the_order() -> None:
    scene = labelled_scene(0)
    limit = Limit.of(LimitConfig(points=20))
    kept = seen(limit, scene)
    assert (kept >= 0).sum() == 20
    known = kept >= 0
    np.testing.assert_array_equal(kept[known], scene.labels[known])
    order = np.random.default_rng(0).permutation(len(scene))
    np.testing.assert_array_equal(seen(limit, scene.select(order)), kept[order])
    assert (seen(Limit.of(LimitConfig()), scene) == scene.labels).all()


def test_official_scene_lists(tmp_path: Path) -> None:
    path = tmp_path / "1.txt"
    path.write_text("scene0001_00\n\nscene0005_00.pth\n")
    assert read_scene_list(path) == ("scene0001_00", "scene0005_00")
    assert Limit.of(LimitConfig(scene_list=str(path))).scene_ids(names(9)) == ["scene0001_00", "scene0005_00"]
    with pytest.raises(ConfigError, match="1 of its 2 scenes"):
        Limit.of(LimitConfig(scene_list=str(path))).scene_ids(names(3))


def test_bad_lists_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("a\na\n")
    with pytest.raises(ConfigError, match="twice"):
        read_scene_list(tmp_path / "l.txt")
    with pytest.raises(ConfigError, match=r"none.txt"):
        read_scene_list(tmp_path / "none.txt")
