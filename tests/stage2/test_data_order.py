"""Sample order, mixtures, crops and the prefetcher: functions of (seed, epoch, index), whatever the threads."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_common.runtime.errors import ConfigError
from stage2_distill.data.crops import crop_rows
from stage2_distill.data.order import generator, mixture
from stage2_distill.engine.prefetch import Prefetcher


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    samples=st.integers(0, 25),
    batch=st.integers(1, 4),
    seed=st.integers(0, 5),
)
def test_every_data_set_is_walked_in_rounds(sizes: list[int], samples: int, batch: int, seed: int) -> None:
    mix = mixture({str(i): n for i, n in enumerate(sizes)}, {}, samples, batch)
    wanted = samples or sum(sizes)
    assert mix.samples % batch == 0
    assert wanted <= mix.samples < wanted + batch
    first = 0
    for number, size in enumerate(sizes):
        drawn = []
        for epoch in range(6):
            order = mix.epoch(seed, epoch)
            mine = order[(order >= first) & (order < first + size)] - first
            assert len(mine) == mix.counts[number]
            drawn.append(mine)
        counts = np.bincount(np.concatenate([*drawn, np.zeros(0, np.int64)]), minlength=size)
        assert counts.max() - counts.min() <= 1  # no scene twice more often than another
        first += size


def test_weights_share_an_epoch() -> None:
    mix = mixture({"a": 100, "b": 10, "c": 10}, {"a": 3, "b": 2, "c": 2}, 70, 7)
    assert mix.counts == (30, 20, 20)
    assert mixture({"a": 6, "b": 2}, {}, 0, 1).counts == (6, 2)
    assert mixture({"a": 6, "b": 2}, {"b": 0.0}, 8, 1).counts == (8, 0)


@pytest.mark.parametrize("weights", [{"a": 0.0}, {"a": 1e308}, {"a": float("nan")}])
def test_weights_that_leave_nothing_to_share_by_are_refused(weights: dict[str, float]) -> None:
    sizes = {"a": 3} if weights["a"] == 0 else {"a": 3, "b": 3}
    with pytest.raises(ConfigError, match=r"data\.weights leaves nothing to draw from a.*; give one a positive weight"):
        mixture(sizes, weights if len(sizes) == 1 else weights | {"b": weights["a"]}, 0, 2)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    mix = mixture({"a": 50}, {}, 0, 1)
    np.testing.assert_array_equal(mix.epoch(1, 2), mix.epoch(1, 2))
    assert (mix.epoch(1, 2) != mix.epoch(1, 3)).any()
    assert (mix.epoch(1, 2) != mix.epoch(2, 2)).any()


def test_generators_with_different_keys_are_independent() -> None:
    draws = {k: generator(0, *k).random(2000) for k in [(1,), (2,), (1, 0), (0, 1), (1, 1)]}
    keys = list(draws)
    for i, a in enumerate(keys):
        for b in keys[i + 1 :]:
            assert abs(np.corrcoef(draws[a], draws[b])[0, 1]) < 0.1


def test_sphere_crop_holds_the_nearest_gaussians() -> None:
    rng = np.random.default_rng(0)
    means = rng.random((500, 3)).astype(np.float32)
    valid = np.zeros(500, bool)
    valid[77] = True  # the only possible centre
    rows = crop_rows(means, valid, "sphere", 40, np.random.default_rng(1))
    distance = np.linalg.norm(means - means[77], axis=1)
    np.testing.assert_array_equal(rows, np.sort(np.argsort(distance)[:40]))


def test_row_crop_is_a_range_around_a_valid_gaussian() -> None:
    means = np.zeros((500, 3), np.float32)
    valid = np.zeros(500, bool)
    valid[[3, 490]] = True
    for seed in range(30):
        rows = crop_rows(means, valid, "rows", 50, np.random.default_rng(seed))
        assert len(rows) == 50
        assert (np.diff(rows) == 1).all()
        assert rows[0] >= 0
        assert rows[-1] < 500
        assert valid[rows].any()


def test_small_scenes_are_taken_whole() -> None:
    means = np.zeros((5, 3), np.float32)
    for limit in (0, 5, 9):
        rows = crop_rows(means, np.ones(5, bool), "sphere", limit, np.random.default_rng(0))
        np.testing.assert_array_equal(rows, np.arange(5))


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("prefetch", [1, 3, 100])
def test_prefetcher_keeps_order(workers: int, prefetch: int) -> None:
    delays = np.random.default_rng(0).random(30) * 0.004

    def make(number: int) -> int:
        time.sleep(delays[number - 5])
        return number * number

    assert list(Prefetcher(make, 5, 35, workers=workers, prefetch=prefetch)) == [n * n for n in range(5, 35)]


def test_prefetcher_stays_within_its_bound() -> None:
    made: list[int] = []
    iterator = iter(Prefetcher(lambda n: made.append(n) or n, 0, 100, workers=2, prefetch=4))
    assert next(iterator) == 0
    time.sleep(0.05)
    assert len(made) <= 5
    iterator.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("data")]


@pytest.mark.parametrize("workers", [0, 2])
def test_prefetcher_raises_where_the_item_would_have_come(workers: int) -> None:
    def make(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    seen = []
    with pytest.raises(ValueError, match="three"):
        for item in Prefetcher(make, 0, 10, workers=workers, prefetch=4):
            seen.append(item)
    assert seen == [0, 1, 2]
