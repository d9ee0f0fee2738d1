"""CacheDataset: samples depend on (seed, epoch, index) alone; data sets mix; bad scenes are named."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from chorus_common.runtime.errors import CacheError, ConfigError
from stage2_distill.data.augment import AugmentConfig
from stage2_distill.data.batch import Batch, collate
from stage2_distill.data.dataset import CacheDataset, PlainScene, SceneEntry
from stage2_distill.encoder import preset_config
from stage2_distill.encoder.inputs import scene_inputs
from stage2_distill.engine.prefetch import Prefetcher
from stage2_distill.settings import DataSettings
from tests.stage2.store_fakes import make_entries, make_store

ENCODER = preset_config("chorus-lite", enc_channels=(8, 16), inputs={"grid_size": 0.1})
TEACHERS = {"text": 8, "dense": 12}


def make_dataset(entries: list[SceneEntry] | None = None, **data: object) -> CacheDataset:
    settings = DataSettings(**({"max_points": 150} | data))
    return CacheDataset(
        entries or make_entries(), TEACHERS, {}, ENCODER, settings, AugmentConfig(), seed=3, batch_size=2
    )


def assert_equal(a: Batch, b: Batch) -> None:
    assert a.scenes == b.scenes
    for key in ("coord", "grid_coord", "feat", "offset"):
        assert torch.equal(getattr(a.points, key), getattr(b.points, key))
    assert a.targets.keys() == b.targets.keys()
    for name, target in a.targets.items():
        for key in ("rows", "values", "weight"):
            assert torch.equal(getattr(target, key), getattr(b.targets[name], key))


@pytest.mark.parametrize("data", [{}, {"crop": "rows"}, {"views": 2}, {"max_targets": 9}])
def test_batches_do_not_depend_on_workers_memory_or_history(data: dict[str, object]) -> None:
    steps = 4
    reference = make_dataset(**data)
    expected = [reference.batch(step, 0, 2) for step in range(steps)]
    for workers, memory in ((0, 0), (1, 4096), (3, 0), (3, 4096)):
        dataset = make_dataset(memory_mb=memory, **data)
        loaded = list(Prefetcher(lambda s, d=dataset: d.batch(s, 0, 2), 0, steps, workers=workers, prefetch=3))
        for a, b in zip(expected, loaded, strict=True):
            assert_equal(a, b)
    assert_equal(make_dataset(**data).batch(3, 0, 2), expected[3])  # straight to the last one


def test_ranks_share_a_batch() -> None:
    dataset = make_dataset()
    whole = dataset.batch(1, 0, 2)
    parts = collate([dataset.batch(1, 0, 1), dataset.batch(1, 1, 2)])
    assert_equal(whole, parts)


def test_samples_differ_between_epochs() -> None:
    dataset = make_dataset()
    one, two = dataset.sample(0, 0, 0), dataset.sample(1, 0, 0)
    assert len(one.points) != len(two.points) or not torch.equal(one.points.feat, two.points.feat)


def test_targets_belong_to_their_voxels() -> None:
    """Without augmentation a whole scene's targets are the dense lift, averaged over the members of each voxel."""
    entries = make_entries(scenes=1)
    dataset = CacheDataset(
        entries, TEACHERS, {}, ENCODER, DataSettings(min_weight=0), AugmentConfig(enabled=False), seed=0, batch_size=1
    )
    batch = dataset.plain(0).batch
    store = entries[0].store
    sums, weight = store.index.lift(store.features("text").reshape(-1, 8))
    points, voxel_of = scene_inputs(store.scene(), ENCODER)
    assert torch.equal(points.grid_coord, batch.points.grid_coord)
    target = batch.targets["text"]
    for row, value in zip(target.rows[:40].tolist(), target.values[:40]):
        members = np.flatnonzero(voxel_of == row)
        expected = sums[members].astype(np.float64).sum(0) / weight[members].astype(np.float64).sum()
        np.testing.assert_allclose(value, expected, atol=2e-3)


def test_a_sample_of_few_targets_is_a_part_of_all_of_them() -> None:
    for step in range(3):
        whole, few = make_dataset().batch(step, 0, 2), make_dataset(max_targets=9).batch(step, 0, 2)
        assert torch.equal(whole.points.feat, few.points.feat)
        for name, target in few.targets.items():
            assert torch.bincount(target.cloud).tolist() == [9, 9]
            everything = {int(r): k for k, r in enumerate(whole.targets[name].rows)}
            place = [everything[int(r)] for r in target.rows]
            assert place == sorted(set(place))
            for key in ("values", "weight", "cloud"):
                assert torch.equal(getattr(target, key), getattr(whole.targets[name], key)[place])
    rows = [make_dataset(max_targets=9).batch(step, 0, 1).targets["text"].rows.tolist() for step in (0, 2, 4)]
    assert rows[0] != rows[1] or rows[1] != rows[2]


def test_teacher_missing_in_a_scene_is_masked() -> None:
    rng = np.random.default_rng(0)
    entries = [
        SceneEntry("a", "both", "1", make_store(rng, name="both")),
        SceneEntry("a", "text-only", "2", make_store(rng, name="text-only", teachers={"text": 8})),
    ]
    batch = collate([make_dataset(entries).sample(0, 0, 0), make_dataset(entries).sample(0, 1, 1)])
    first = int(batch.points.offset[0])
    assert int(batch.targets["dense"].rows.max()) < first
    assert int(batch.targets["text"].rows.max()) >= first


def test_scene_without_any_teacher_is_named() -> None:
    entry = SceneEntry("a", "odd", "1", make_store(np.random.default_rng(0), teachers={"other": 4}))
    with pytest.raises(CacheError, match="scene odd: none of the teachers text, dense"):
        make_dataset([entry])


def test_scene_without_visibility_is_named() -> None:
    with pytest.raises(CacheError, match=r"scene room\d: no Gaussian has weight"):
        make_dataset(min_weight=1e9).batch(0, 0, 2)


def test_crop_whose_targets_are_lost_is_redrawn() -> None:
    """One Gaussian has visibility and dropout takes it at times: the sample is drawn anew, always in the same way."""
    store = make_store(np.random.default_rng(0), n=40)
    weight, n_views = store.visibility()
    lone = int(np.argmax(weight))
    only = np.where(np.arange(40) == lone, weight, 0).astype(np.float32)
    store.visibility = lambda: (only, n_views)  # type: ignore[method-assign]
    entries = [SceneEntry("a", "lone", "1", store)]
    augmentation = AugmentConfig(dropout_p=1, dropout_ratio=0.7)
    dataset = CacheDataset(entries, TEACHERS, {}, ENCODER, DataSettings(), augmentation, seed=0, batch_size=1)
    for index in range(12):
        sample = dataset.sample(0, index, 0)
        assert len(sample.targets["text"].rows) == 1
        assert_equal(sample, dataset.sample(0, index, 0))
    every = AugmentConfig(dropout_p=1, dropout_ratio=0.99)
    hopeless = CacheDataset(entries, TEACHERS, {}, ENCODER, DataSettings(), every, seed=0, batch_size=1)
    with pytest.raises(CacheError, match="scene lone: 10 crops in a row"):
        for index in range(40):
            hopeless.sample(0, index, 0)


def test_several_data_sets_are_mixed_by_weight() -> None:
    rng = np.random.default_rng(0)
    entries = [
        SceneEntry(d, f"{d}{i}", "", make_store(rng, n=60, name=f"{d}{i}")) for d in ("a", "b") for i in range(2)
    ]
    dataset = make_dataset(entries, weights={"a": 3, "b": 1}, samples_per_epoch=8)
    names = [n for step in range(dataset.mixture.steps) for n in dataset.batch(step, 0, 2).scenes]
    assert sum(n.startswith("a") for n in names) == 6
    with pytest.raises(ConfigError, match=r"data.weights names data set 'c', the stores hold a, b"):
        make_dataset(entries, weights={"c": 1})


def test_a_plain_scene_is_as_large_as_a_training_crop_and_always_the_same() -> None:
    entries = make_entries(scenes=2, n=400)
    whole = make_dataset(entries, max_points=0).plain(1)
    assert len(whole.scene) == len(whole.voxel) == 400
    one = make_dataset(entries)
    one.batch(0, 0, 2)  # what was drawn before moves nothing
    crop, again = one.plain(1), make_dataset(entries).plain(1)
    assert len(crop.scene) == len(crop.voxel) == 150
    assert_equal(crop.batch, again.batch)
    assert len(crop.batch.points) < len(whole.batch.points)
    np.testing.assert_array_equal(
        crop.scene.labels, entries[1].store.scene().labels[np.sort(crop_of(crop, entries[1]))]
    )


def crop_of(crop: PlainScene, entry: SceneEntry) -> np.ndarray:
    """Rows of the store's scene that a crop holds, by their places."""
    place = {tuple(mean): row for row, mean in enumerate(entry.store.scene().means.tolist())}
    return np.array([place[tuple(mean)] for mean in crop.scene.means.tolist()])


@pytest.mark.parametrize("objective", ["lifted", "rendered"])
@pytest.mark.parametrize("max_points", [0, 150])
def test_drawn_targets_are_rows_of_all_of_them(objective: Literal["lifted", "rendered"], max_points: int) -> None:
    """To the bit, though no other row is computed."""
    dataset = CacheDataset(
        make_entries(scenes=1), TEACHERS, {}, ENCODER, DataSettings(max_points=max_points, cover=0.0), AugmentConfig(),
        seed=3, batch_size=1, objective=objective,
    )  # fmt: skip
    everything = dataset.plain(0).batch.targets
    rng, same = np.random.default_rng(0), np.random.default_rng(0)
    drawn = dataset.plain(0, lambda count: rng.permutation(count)[:20]).batch.targets
    for name, target in everything.items():
        chosen = torch.from_numpy(same.permutation(len(target.rows))[:20])
        for key in ("rows", "values", "weight", "cloud"):
            assert torch.equal(getattr(drawn[name], key), getattr(target, key)[chosen]), key


def test_a_student_of_points_is_measured_on_points() -> None:
    both = preset_config("chorus-lite", enc_channels=(8, 16), inputs={"grid_size": 0.1, "indicator": True})
    entries = make_entries(scenes=1)
    for share, present in ((1.0, 0.0), (0.5, 1.0), (0.0, 1.0)):
        data = DataSettings(points_p=share)
        dataset = CacheDataset(entries, TEACHERS, {}, both, data, AugmentConfig(), seed=0, batch_size=1)
        feat = dataset.plain(0).batch.points.feat  # colour, opacity, quaternion, scale, and which of them are there
        assert (feat[:, 12:] == present).all()
        assert bool((feat[:, 3:11] != 0).any()) == bool(present)
        assert (feat[:, 11] == 1).all()
    with pytest.raises(ConfigError, match=r"needs opacity, quat, scale and .*; data\.points_p > 0 takes"):
        make_dataset(points_p=0.5)


def test_no_scenes_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no scenes to train on"):
        CacheDataset([], TEACHERS, {}, ENCODER, DataSettings(), AugmentConfig(), seed=0, batch_size=1)
