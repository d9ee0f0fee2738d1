"""The embedded text-aligned teacher: that it has learnt something, and how."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from chorus_common.labels import SCANNET20
from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import ConfigError, WeightsError
from chorus_common.text import EmbeddedTextEncoder
from data_manifests.synthetic import RoomOptions
from data_manifests.synthetic.options import Domain
from data_manifests.synthetic.teacher_pictures import PictureRoom, render_shares
from stage1_render_teachers.teachers import build_teacher
from stage1_render_teachers.teachers.cell_network import PATCH
from stage1_render_teachers.teachers.text_aligned import WEIGHTS, TextAlignedTeacher
from stage1_render_teachers.teachers.train_text_aligned import (
    PHRASES,
    Towers,
    load_towers,
    save_towers,
    soft_cross_entropy,
)


@pytest.fixture(scope="module")
def teacher() -> TextAlignedTeacher:
    return TextAlignedTeacher()


@pytest.mark.parametrize("domain", ["clean", "scan"])
def test_it_tells_classes_of_a_room_it_was_not_trained_on(teacher: TextAlignedTeacher, domain: Domain) -> None:
    arrays = render_shares(PictureRoom(77, RoomOptions(domain=domain)))
    images, shares = arrays["images"], arrays["shares"]
    text = EmbeddedTextEncoder().encode(list(SCANNET20))
    predicted = (teacher.features(images, CellGrid(320, 240, PATCH)) @ text.T).argmax(-1)
    truth, labelled = shares.argmax(-1), shares.astype(int).sum(-1) > 128
    right = (predicted == truth)[labelled]
    present = np.unique(truth[labelled])
    recall = np.mean([right[truth[labelled] == k].mean() for k in present])
    assert right.mean() > 0.6
    assert recall > 0.4
    assert recall > 5 * np.mean([(np.roll(predicted, 3, axis=0) == truth)[labelled].mean() / len(present)])


def test_every_class_has_phrases() -> None:
    assert set(PHRASES) == set(SCANNET20)


def test_soft_cross_entropy_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 3, generator=generator)
    shares = torch.rand(2, 4, 3, 3, generator=generator)
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0])
    loss, total = 0.0, 0.0
    for b in range(2):
        for r in range(3):
            for c in range(3):
                log_p = logits[b, :, r, c].log_softmax(0)
                for k in range(4):
                    loss -= float(weight[k] * shares[b, k, r, c] * log_p[k])
                    total += float(weight[k] * shares[b, k, r, c])
    assert soft_cross_entropy(logits, shares, weight).item() == pytest.approx(loss / total, rel=1e-5)


def test_saved_towers_load_as_a_pair_and_strangers_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_towers(Towers(), tmp_path)
    teacher = TextAlignedTeacher(tmp_path / WEIGHTS.name)
    text = EmbeddedTextEncoder(tmp_path / "embedded_text.safetensors")
    assert teacher.fingerprint.startswith(text.pair)
    assert not TextAlignedTeacher().fingerprint.startswith(text.pair)
    save_file(load_file(tmp_path / WEIGHTS.name), tmp_path / "unmarked.safetensors")
    with pytest.raises(WeightsError, match=r"unmarked\.safetensors: does not say which training"):
        TextAlignedTeacher(tmp_path / "unmarked.safetensors")
    with pytest.raises(WeightsError, match=r"gone\.safetensors: .*missing"):
        TextAlignedTeacher(tmp_path / "gone.safetensors")


def test_the_spec_builds_it() -> None:
    assert build_teacher("embedded:text").text_aligned


def test_training_goes_on_from_saved_towers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = Towers(), Towers()
    save_towers(first, tmp_path)
    load_towers(second, tmp_path)
    for name, value in first.state_dict().items():
        expected = value.half().to(value.dtype) if value.is_floating_point() else value
        assert torch.equal(second.state_dict()[name], expected), name
    with pytest.raises(ConfigError, match=r"nowhere: holds no text_aligned.safetensors"):
        load_towers(second, tmp_path / "nowhere")
