"""The embedded text-aligned teacher: geometry, determinism, and that it has learnt something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from chorus_common.errors import WeightsError
from chorus_common.labels import SCANNET20
from chorus_common.lifting import CellGrid
from chorus_common.synthetic.dataset import RESERVED_SEEDS
from chorus_common.text import EmbeddedTextEncoder
from stage1_render_teachers.teachers import build_teacher
from stage1_render_teachers.teachers.text_aligned import PATCH, WEIGHTS, TextAlignedNetwork, TextAlignedTeacher
from stage1_render_teachers.teachers.train_text_aligned import (
    FIRST_SEED,
    PHRASES,
    Towers,
    augment,
    render_room,
    save_towers,
    soft_cross_entropy,
)


@pytest.fixture(scope="module")
def teacher() -> TextAlignedTeacher:
    return TextAlignedTeacher()


def pictures(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("width", "height", "cell"), [(320, 240, 8), (320, 240, 16), (100, 75, 8), (64, 48, 3)])
def test_one_unit_vector_per_cell_whatever_the_picture(
    teacher: TextAlignedTeacher, width: int, height: int, cell: int
) -> None:
    grid = CellGrid(width, height, cell)
    features = teacher.features(pictures(2, height, width), grid)
    assert features.shape == (2, grid.rows, grid.cols, teacher.channels)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-4)


def test_features_equal_the_networks_own_forward_and_ignore_the_batch(teacher: TextAlignedTeacher) -> None:
    images = pictures(3, 48, 64)
    features = teacher.features(images, CellGrid(64, 48, PATCH))
    with torch.inference_mode():
        expected = teacher.network(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).permute(0, 2, 3, 1)
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-5)
    alone = teacher.features(images[1:2], CellGrid(64, 48, PATCH))
    np.testing.assert_allclose(alone[0], features[1], atol=1e-5)


def test_a_changed_cell_changes_most_where_it_lies() -> None:
    """Half a token off, or rows taken for columns, would move the peak; random weights, averaged, have no favourite."""
    image = torch.full((1, 3, 96, 128), 0.4)
    bright = image.clone()
    row, column = 7, 3
    bright[..., row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = 1.0
    change = torch.zeros(12, 16)
    for seed in range(24):
        torch.manual_seed(seed)
        network = TextAlignedNetwork().eval()
        with torch.inference_mode():
            change += (network(bright) - network(image)).norm(dim=1)[0]
    assert divmod(int(change.argmax()), change.shape[1]) == (row, column)


def test_it_tells_classes_of_a_room_it_was_not_trained_on(teacher: TextAlignedTeacher) -> None:
    images, shares = render_room(seed=77)
    text = EmbeddedTextEncoder().encode(list(SCANNET20))
    predicted = (teacher.features(images, CellGrid(320, 240, PATCH)) @ text.T).argmax(-1)
    truth, labelled = shares.argmax(-1), shares.astype(int).sum(-1) > 128
    right = (predicted == truth)[labelled]
    present = np.unique(truth[labelled])
    recall = np.mean([right[truth[labelled] == k].mean() for k in present])
    assert right.mean() > 0.6
    assert recall > 0.4
    assert recall > 5 * np.mean([(np.roll(predicted, 3, axis=0) == truth)[labelled].mean() / len(present)])


def test_seeds_of_the_teachers_rooms_are_out_of_reach_of_data_sets() -> None:
    assert FIRST_SEED >= RESERVED_SEEDS
    assert set(PHRASES) == set(SCANNET20)


def test_augmented_cells_keep_their_labels() -> None:
    """Paint each cell with its own label: after any augmentation they agree, but for cells cut by a resampled edge."""
    generator = torch.Generator().manual_seed(3)
    label = torch.randint(2, (2, 1, 6, 8), generator=generator).repeat_interleave(5, 2).repeat_interleave(5, 3).float()
    images = label.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3).expand(-1, 3, -1, -1).contiguous()
    shares = torch.cat([label, 1 - label], dim=1)
    for _ in range(5):
        image, share = augment(images, shares, generator)
        middle = image.mean(1)[:, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]
        on, off = middle[share[:, 0] == 1], middle[share[:, 0] == 0]
        assert (on > (on.mean() + off.mean()) / 2).float().mean() > 0.8
        assert (off < (on.mean() + off.mean()) / 2).float().mean() > 0.8


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
