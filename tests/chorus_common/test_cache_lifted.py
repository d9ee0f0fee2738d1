"""Stores whose teachers came lifted: what was written comes back, for any rows, and damage is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_common.cache import GridAttributes, SceneCache, SceneCacheWriter, SceneHeader, verify_store
from chorus_common.features.quantise import Quantiser
from chorus_common.lifting import morton_order
from chorus_common.runtime.errors import CacheError
from tests.chorus_common.cache_example import make_example

HEADER = SceneHeader(scene_id="room", dataset="test", fingerprint="abc", grid=GridAttributes(width=1, height=1, cell=1))


def write_lifted(path: Path, features: dict[str, tuple[np.ndarray, np.ndarray]], n: int = 300, batch: int = 70) -> None:
    """A store of `n` Gaussians; features: teacher -> (rows [K], standardised values [K, C])."""
    scene = make_example(n=n).scene
    order = morton_order(scene.means)
    weight = np.zeros(n, np.float32)
    with SceneCacheWriter(path, HEADER) as writer:
        writer.put_gaussians(scene, order)
        writer.put_no_views(order)
        for name, (rows, values) in features.items():
            weight[rows] = 1
            teacher = writer.add_dense_teacher(
                name,
                spec=f"test:{name}",
                fingerprint="f",
                channels=values.shape[1],
                standardiser="s",
                bits=4,
                rows=rows,
            )
            for begin in range(0, len(rows), batch):
                teacher.append(values[begin : begin + batch])
        writer.put_visibility(weight, np.zeros(n, np.int32))
        assert writer.publish()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[np.ndarray, np.ndarray]]]:
    rng = np.random.default_rng(0)
    features = {}
    for name, count, channels in (("lang", 200, 24), ("dino", 130, 17), ("none", 0, 8)):
        rows = np.sort(rng.permutation(300)[:count])
        features[name] = (rows, rng.normal(size=(count, channels)).astype(np.float32))
    path = tmp_path_factory.mktemp("lifted") / "room.zarr"
    write_lifted(path, features)
    return path, features


def expected(features: tuple[np.ndarray, np.ndarray], n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """The slow twin: every row decoded on its own."""
    rows, values = features
    out, known = np.zeros((n, values.shape[1]), np.float32), np.zeros(n, bool)
    for row, value in zip(rows, values):
        quantiser = Quantiser(4)
        out[row] = quantiser.decode(quantiser.encode(value[None]), len(value))[0]
        known[row] = True
    return out, known


def test_a_lifted_store_reads_back_as_written(store: tuple[Path, dict[str, tuple[np.ndarray, np.ndarray]]]) -> None:
    path, features = store
    cache = SceneCache.open(path, check="full")
    assert verify_store(path) == []
    assert cache.n_views == 0
    assert len(cache.cameras()) == 0
    assert len(cache.lifting()) == 300
    assert cache.lifting().n_columns == 0
    assert np.array_equal(cache.lifting().order, morton_order(make_example(n=300).scene.means))
    for name, own in features.items():
        values, known = expected(own)
        found, there = cache.lifted_features(name)
        assert np.array_equal(found, values), name
        assert np.array_equal(there, known), name
        assert cache.dense_teachers[name].lifted_rows == len(own[0])
    assert cache.attributes.coverage == pytest.approx(
        np.mean(expected(features["lang"])[1] | expected(features["dino"])[1])
    )


@given(rows=st.sets(st.integers(0, 299)), name=st.sampled_from(["lang", "dino", "none"]))
@settings(max_examples=40, deadline=None)
def test_any_rows_are_those_of_the_whole(
    store: tuple[Path, dict[str, tuple[np.ndarray, np.ndarray]]], rows: set[int], name: str
) -> None:
    cache = SceneCache.open(store[0])
    wanted = np.array(sorted(rows), np.int64)
    whole, known = cache.lifted_features(name)
    found, there = cache.lifted_features(name, wanted)
    assert np.array_equal(found, whole[wanted])
    assert np.array_equal(there, known[wanted])
    if len(wanted):
        part = slice(int(wanted[0]), int(wanted[-1]) + 1)
        assert np.array_equal(cache.lifted_features(name, part)[0], whole[part])


def test_features_per_view_and_per_gaussian_are_not_taken_for_each_other(
    store: tuple[Path, dict[str, tuple[np.ndarray, np.ndarray]]], tmp_path: Path
) -> None:
    from tests.chorus_common.cache_example import write_example

    with pytest.raises(CacheError, match="imported with one vector per Gaussian"):
        SceneCache.open(store[0]).features("lang")
    write_example(tmp_path / "own.zarr", make_example())
    with pytest.raises(CacheError, match="features per view"):
        SceneCache.open(tmp_path / "own.zarr").lifted_features("clip")


@pytest.mark.parametrize("rows", [[3, 2], [2, 2], [-1, 2], [5, 300]])
def test_rows_that_are_none_are_refused(tmp_path: Path, rows: list[int]) -> None:
    with pytest.raises((CacheError, IndexError)):
        write_lifted(tmp_path / "x.zarr", {"t": (np.array(rows), np.ones((2, 8), np.float32))})
    assert not (tmp_path / "x.zarr").exists()


def test_missing_vectors_and_flipped_bits_are_noticed(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "room.zarr"
    write_lifted(path, {"t": (np.arange(0, 300, 2), rng.normal(size=(150, 16)).astype(np.float32))})
    (shard,) = (path / "teachers" / "t" / "codes").rglob("c/0/0")
    damaged = bytearray(shard.read_bytes())
    damaged[40] ^= 4
    shard.write_bytes(damaged)
    assert verify_store(path)
    with pytest.raises(CacheError, match="damaged"):
        SceneCache.open(path).lifted_features("t")
    shard.unlink()
    with pytest.raises(CacheError, match="missing"):
        SceneCache.open(path)
