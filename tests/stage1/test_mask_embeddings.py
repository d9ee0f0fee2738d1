"""Vectors of masks: crops with blurred surroundings, and which teachers can be asked for them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import ConfigError
from stage1_render_teachers.teachers import DenseTeacher, build_teacher
from stage1_render_teachers.teachers.mask_crops import MARGIN, mask_crops, square_around
from stage1_render_teachers.teachers.mask_embeddings import mask_embedder, pool_under_masks, unit_rows
from stage1_render_teachers.teachers.protocol import PictureTeacher

GRID = CellGrid(80, 60, 10)


def two_masks() -> tuple[np.ndarray, np.ndarray]:
    """A red square (mask 0) and a green bar (mask 1) on grey noise."""
    rng = np.random.default_rng(0)
    image = rng.integers(80, 160, (60, 80, 3)).astype(np.uint8)
    ids = np.full((60, 80), -1, np.int32)
    ids[10:30, 12:32] = 0
    ids[40:46, 40:78] = 1
    image[ids == 0] = (220, 10, 10)
    image[ids == 1] = (10, 220, 10)
    return image, ids


def test_a_crop_shows_its_mask_sharp_in_the_middle_and_the_rest_blurred() -> None:
    image, ids = two_masks()
    red, green = mask_crops(image, ids, 88)
    assert red.shape == (88, 88, 3)
    np.testing.assert_array_equal(red[40:48, 40:48], np.broadcast_to([220, 10, 10], (8, 8, 3)))
    # 20 pixels fill 1 / 1.1 of the side; around them nothing is as contrasted as the noise was
    is_red = np.abs(red.astype(int) - [220, 10, 10]).max(-1) < 8
    assert abs(is_red.mean() - (20 / 22) ** 2) < 0.06
    # a bar keeps its shape: 6 of 42 rows
    is_green = green[..., 1] > 180
    assert green[:20].astype(float).std(axis=(0, 1)).max() < image[50:].astype(float).std(axis=(0, 1)).min() / 2
    assert abs(is_green.any(axis=1).mean() - 6 / 42) < 0.05
    assert is_green.any(axis=0).mean() > 0.85


def test_pixels_outside_a_mask_reach_its_crop_only_through_the_blur() -> None:
    """Shuffling the pixels far from a mask leaves its crop as it was."""
    image, ids = two_masks()
    other = image.copy()
    other[50:, :30] = 255 - other[50:, :30]  # further from mask 0 than the blur reaches
    np.testing.assert_array_equal(mask_crops(image, ids, 32)[0], mask_crops(other, ids, 32)[0])
    near = image.copy()
    near[32:36, 12:32] = 255
    assert (mask_crops(image, ids, 32)[0] != mask_crops(near, ids, 32)[0]).any()


@given(st.integers(0, 50), st.integers(1, 30), st.integers(0, 50), st.integers(1, 30))
def test_the_square_holds_the_box_in_its_middle(top: int, height: int, left: int, width: int) -> None:
    (r0, r1), (c0, c1) = square_around((slice(top, top + height), slice(left, left + width)), MARGIN)
    assert r1 - r0 == c1 - c0 == np.ceil(MARGIN * max(height, width))
    assert r0 <= top
    assert r1 >= top + height
    assert c0 <= left
    assert c1 >= left + width
    assert abs((r0 + r1) - (2 * top + height)) <= 1
    assert abs((c0 + c1) - (2 * left + width)) <= 1


def test_no_masks_no_crops_and_an_id_without_pixels_is_refused() -> None:
    image, ids = two_masks()
    assert mask_crops(image, np.full_like(ids, -1), 16).shape == (0, 16, 16, 3)
    with pytest.raises(ValueError, match="mask 0 has no pixels"):
        mask_crops(image, np.where(ids == 1, ids, -1), 16)


class MeanColour:
    """One vector per picture and per cell: its mean colour."""

    spec, fingerprint, channels, text_aligned, picture_size = "made-up:mean", "m", 3, True, 24

    def features(self, images: np.ndarray, grid: CellGrid) -> np.ndarray:
        return images.reshape(len(images), grid.rows, grid.cell, grid.cols, grid.cell, 3).mean((2, 4)) / np.float32(255)

    def picture_embeddings(self, pictures: np.ndarray) -> np.ndarray:
        return unit_rows(pictures.mean(axis=(1, 2), dtype=np.float32))


def test_both_forms_give_unit_vectors_of_the_masks() -> None:
    image, ids = two_masks()
    teacher = MeanColour()
    tokens = teacher.features(image[None], GRID)[0].reshape(GRID.cells, 3)
    for form in ("pooled", "crops"):
        vectors = mask_embedder(form, teacher, GRID)(image, ids, tokens)  # type: ignore[arg-type]
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert vectors[0].argmax() == 0  # red
        empty = mask_embedder(form, teacher, GRID)(image, np.full_like(ids, -1), tokens)  # type: ignore[arg-type]
        assert empty.shape == (0, 3)
    pooled = mask_embedder("pooled", teacher, GRID)(image, ids, tokens)
    np.testing.assert_allclose(pooled, unit_rows(pool_under_masks(ids, tokens, GRID)))


def test_crops_need_a_teacher_with_a_vector_for_pictures() -> None:
    teacher = build_teacher("embedded:dense")
    assert isinstance(teacher, DenseTeacher)
    assert not isinstance(teacher, PictureTeacher)
    with pytest.raises(ConfigError, match="no vector for a whole picture"):
        mask_embedder("crops", teacher, GRID)


def test_rows_of_zeros_stay_zero() -> None:
    np.testing.assert_allclose(unit_rows(np.array([[3, 4], [0, 0]], np.float32)), [[0.6, 0.8], [0, 0]], atol=1e-7)
