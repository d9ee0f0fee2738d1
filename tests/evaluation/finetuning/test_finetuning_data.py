from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from chorus_common.runtime.errors import ChorusError, ConfigError
from chorus_common.scene_io.npy_folder import write_npy_folder
from evaluation.data_efficiency import Limit
from evaluation.finetuning.data import LabelledBatch, LabelledDataset, collate, instance_offsets, voxel_majority
from evaluation.finetuning.settings import FineTuneConfig
from evaluation.scenes import EvalScene
from tests.evaluation.labelled_rooms import (
    LabelledRooms,
    labelled_scene,
    make_labelled_rooms,
    source_scene,
    tiny_encoder,
)

#: Crops per step.
CROPS = 2
THINGS = np.array([False, False] + [True] * 18)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> LabelledRooms:
    return make_labelled_rooms(tmp_path_factory.mktemp("labelled"))


def dataset(rooms: LabelledRooms, **settings: object) -> LabelledDataset:
    config = FineTuneConfig.model_validate({"batch_size": CROPS, "max_points": 300, **settings})
    scenes = [source_scene(rooms, f"train_{i}") for i in range(3)]
    return LabelledDataset(scenes, "scannet20", THINGS, tiny_encoder().config, config, Limit.of(config.limit))


def same(a: LabelledBatch, b: LabelledBatch) -> bool:
    parts = [(a.points.feat, b.points.feat), (a.labels, b.labels), (a.centred, b.centred), (a.offsets, b.offsets)]
    return a.scenes == b.scenes and all(x.shape == y.shape and torch.equal(x, y) for x, y in parts)


def test_batches_are_a_function_of_the_step(labelled: LabelledRooms) -> None:
    first, second = dataset(labelled), dataset(labelled, memory_mb=0)
    wanted = [first.batch(step, 0, CROPS) for step in range(4)]
    for step in (3, 0, 2, 1):  # in any order, remembered or read again
        assert same(second.batch(step, 0, CROPS), wanted[step])
    assert not same(wanted[0], wanted[2])
    assert not same(dataset(labelled, seed=1).batch(0, 0, CROPS), wanted[0])


def test_offsets_lead_to_the_middle_of_the_instance(labelled: LabelledRooms) -> None:
    batch = dataset(labelled, task="instance", max_points=0).batch(0, 0, CROPS)
    ends = batch.points.coord[batch.centred] + batch.offsets
    kinds = batch.labels[batch.centred]
    cloud = batch.points.batch[batch.centred]
    for b in range(2):
        for kind in kinds.unique():
            rows = (cloud == b) & (kinds == kind)
            middle = batch.points.coord[batch.centred][rows].mean(0)
            torch.testing.assert_close(ends[rows], middle.expand(int(rows.sum()), 3), rtol=0, atol=1e-5)
    assert (kinds >= 2).all(), "walls and floors have no instances"


def test_majority_of_a_voxel_equals_a_loop() -> None:
    rng = np.random.default_rng(0)
    inverse, ids = rng.integers(0, 20, 100), rng.integers(-1, 4, 100)
    slow = np.full(25, -1)
    for v in range(25):
        inside = ids[(inverse == v) & (ids >= 0)]
        if len(inside):
            counts = np.bincount(inside)
            slow[v] = int(np.flatnonzero(counts == counts.max())[0])
    np.testing.assert_array_equal(voxel_majority(ids, inverse, 25), slow)
    assert (voxel_majority(np.full(3, -1), np.zeros(3, np.int64), 2) == -1).all()


def test_no_instances_no_offsets() -> None:
    rows, offsets = instance_offsets(np.zeros((4, 3), np.float32), np.full(4, -1))
    assert len(rows) == 0
    assert offsets.shape == (0, 3)


def test_annotations_survive_voxels(labelled: LabelledRooms) -> None:
    data = dataset(labelled, limit={"points": 5}, max_points=0, augment={"enabled": False})
    for number in range(3):
        sample = data.sample(0, 0, number)
        assert 1 <= int((sample.labels >= 0).sum()) <= 5
        assert int((data.scene(number).labels >= 0).sum()) == 5
    assert data.class_counts(20).sum() == 15


def test_limited_scenes_are_the_drawn_ones(labelled: LabelledRooms) -> None:
    assert len(dataset(labelled, limit={"scenes": 34}).scenes) == 1
    small = dataset(labelled, limit={"scenes": 34}).scenes[0].name
    assert small in {s.name for s in dataset(labelled, limit={"scenes": 67}).scenes}


def test_collate_shifts_rows(labelled: LabelledRooms) -> None:
    data = dataset(labelled, task="instance")
    a, b = data.sample(0, 0, 0), data.sample(0, 1, 1)
    both = collate([a, b])
    n, m = len(a.points), len(a.centred)
    assert torch.equal(both.labels[both.centred[m:]], b.labels[b.centred])
    assert torch.equal(both.centred[m:], b.centred + n)


def test_scenes_that_cannot_teach(labelled: LabelledRooms, tmp_path: Path) -> None:
    from dataclasses import replace

    config = FineTuneConfig(task="instance")
    bare = labelled_scene(0)
    for name, scene, message in (
        ("unlabelled", replace(bare, labels=None, instances=None), "no ground truth to learn from"),
        ("flat", replace(bare, instances=None), "no ground-truth instances"),
        (
            "odd",
            replace(bare, labels=np.where(bare.labels == 2, 2, 77).astype(np.int32)),
            "ground truth 77 is outside the label space of 20 classes",
        ),
    ):
        path = write_npy_folder(scene, tmp_path / name)
        where = EvalScene("toy", name, None, path, "scannet20")
        data = LabelledDataset([where], "scannet20", THINGS, tiny_encoder().config, config, Limit.of(config.limit))
        with pytest.raises(ChorusError, match=f"toy/{name}: .*{message}"):
            data.batch(0, 0, CROPS)
    with pytest.raises(ConfigError, match="no scenes to learn from"):
        LabelledDataset([], "scannet20", THINGS, tiny_encoder().config, config, Limit(config.limit, listed_scenes=()))
