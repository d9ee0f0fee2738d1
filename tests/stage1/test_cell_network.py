"""The network of the embedded teachers and how they are trained: geometry, determinism, augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chorus_common.lifting import CellGrid
from stage1_render_teachers.teachers.cell_network import PATCH, CellNetwork
from stage1_render_teachers.teachers.embedded_training import augment
from stage1_render_teachers.teachers.object_aware import ObjectAwareTeacher
from stage1_render_teachers.teachers.text_aligned import TextAlignedTeacher

Trained = TextAlignedTeacher | ObjectAwareTeacher


@pytest.fixture(scope="module", params=[TextAlignedTeacher, ObjectAwareTeacher])
def teacher(request: pytest.FixtureRequest) -> Trained:
    made: Trained = request.param()
    return made


def pictures(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("width", "height", "cell"), [(320, 240, 8), (320, 240, 16), (100, 75, 8), (64, 48, 3)])
def test_one_unit_vector_per_cell_whatever_the_picture(teacher: Trained, width: int, height: int, cell: int) -> None:
    grid = CellGrid(width, height, cell)
    features = teacher.features(pictures(2, height, width), grid)
    assert features.shape == (2, grid.rows, grid.cols, teacher.channels)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-4)


def test_features_equal_the_networks_own_forward_and_ignore_the_batch(teacher: Trained) -> None:
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
        network = CellNetwork().eval()
        with torch.inference_mode():
            change += (network(bright) - network(image)).norm(dim=1)[0]
    assert divmod(int(change.argmax()), change.shape[1]) == (row, column)


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
