"""The embedded object-aware teacher: that it tells objects apart, and the losses that taught it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import WeightsError
from data_manifests.synthetic import RoomOptions
from data_manifests.synthetic.teacher_pictures import Arrays, PictureRoom, render_objects
from stage1_render_teachers.teachers import DenseTeacher, build_teacher
from stage1_render_teachers.teachers.cell_network import PATCH, CellNetwork
from stage1_render_teachers.teachers.object_aware import ObjectAwareTeacher
from stage1_render_teachers.teachers.text_aligned import TextAlignedTeacher
from stage1_render_teachers.teachers.train_object_aware import (
    COMPARED,
    OBJECT_TEMPERATURE,
    kind_loss,
    object_contrast,
    save_weights,
)

ROOM = 77


@pytest.fixture(scope="module")
def room() -> Arrays:
    """A room that no teacher was trained on."""
    return render_objects(PictureRoom(ROOM, RoomOptions()))


def test_the_spec_builds_it() -> None:
    teacher = build_teacher("embedded:objects")
    assert isinstance(teacher, DenseTeacher)
    assert not teacher.text_aligned
    assert teacher.fingerprint != build_teacher("embedded:text").fingerprint


def separation(teacher: DenseTeacher, room: Arrays) -> float:
    """How often two cells of one object are closer to each other than one of them is to a cell of another object of
    the picture: 0.5 for vectors that know nothing, 1 at best.
    """
    rng = np.random.default_rng(0)
    vectors = teacher.features(room["images"], CellGrid(320, 240, PATCH))
    right = []
    for x, instance, share in zip(vectors, room["instances"], room["shares"]):
        rows = np.flatnonzero(share.ravel() > 230)
        x, ids = x.reshape(-1, x.shape[-1])[rows], instance.ravel()[rows]
        for one in np.unique(ids):
            mine, others = np.flatnonzero(ids == one), np.flatnonzero(ids != one)
            if len(mine) < 4 or len(others) < 4:
                continue
            a, b, c = rng.choice(mine, 60), rng.choice(mine, 60), rng.choice(others, 60)
            right.append(float(((x[a] * x[b]).sum(1) > (x[a] * x[c]).sum(1))[a != b].mean()))
    return float(np.mean(right))


def test_it_tells_objects_apart_better_than_the_text_aligned_one(room: Arrays) -> None:
    objects, text = separation(ObjectAwareTeacher(), room), separation(TextAlignedTeacher(), room)
    assert text > 0.9
    assert 1 - objects < 0.6 * (1 - text)


def test_object_contrast_against_a_loop() -> None:
    """With as many cells as are drawn at once, the draw is a permutation and the mean over rows does not feel it."""
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(2, 8, 8, 10, generator=generator), dim=1)
    instances = torch.randint(0, 6, (2, 8, 10), generator=generator)
    assert instances.numel() == COMPARED
    usable = torch.ones_like(instances, dtype=torch.bool)
    found = object_contrast(vectors, instances, usable, generator)
    assert found is not None
    x, ids = vectors.permute(0, 2, 3, 1).reshape(-1, 8), instances.reshape(-1)
    terms = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        total = sum(float(torch.exp(x[i] @ x[j] / OBJECT_TEMPERATURE)) for j in others)
        same = [j for j in others if ids[j] == ids[i]]
        terms.append(-np.mean([float(x[i] @ x[j] / OBJECT_TEMPERATURE) - np.log(total) for j in same]))
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-4)
    usable[:] = False
    assert object_contrast(vectors, instances, usable, generator) is None


def test_kind_loss_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 3, generator=generator)
    kinds = torch.randint(-1, 4, (2, 3, 3), generator=generator)
    shares, weight = torch.rand(2, 3, 3, generator=generator), torch.tensor([1.0, 2.0, 0.5, 3.0])
    loss, total = 0.0, 0.0
    for b, r, c in np.ndindex(2, 3, 3):
        k = int(kinds[b, r, c])
        if k >= 0:
            loss -= float(weight[k] * shares[b, r, c] * logits[b, :, r, c].log_softmax(0)[k])
            total += float(weight[k] * shares[b, r, c])
    assert float(kind_loss(logits, kinds, shares, weight)) == pytest.approx(loss / total, rel=1e-5)


def test_saved_weights_load_and_missing_ones_are_named(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = CellNetwork().eval()
    save_weights(network, tmp_path / "mine.safetensors")
    teacher = ObjectAwareTeacher(tmp_path / "mine.safetensors")
    images: NDArray[np.uint8] = np.full((1, 48, 64, 3), 90, dtype=np.uint8)
    with torch.inference_mode():
        expected = network(torch.full((1, 3, 48, 64), 90 / 255))[0].permute(1, 2, 0).numpy()
    found = teacher.features(images, CellGrid(64, 48, PATCH))[0]
    assert (found * expected).sum(-1).min() > 0.999  # fp16 on disk
    assert teacher.fingerprint != ObjectAwareTeacher().fingerprint
    with pytest.raises(WeightsError, match=r"gone\.safetensors: .*missing.*train_object_aware"):
        ObjectAwareTeacher(tmp_path / "gone.safetensors")
