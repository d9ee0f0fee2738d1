"""SAM as a dense teacher and as a mask source: a small SAM of the stock parts, seeded random weights, real loading.

The published ViT-B is in the test marked slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import segment_anything
import torch
from segment_anything import SamPredictor
from segment_anything.utils.amg import build_point_grid, calculate_stability_score

from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import ConfigError, WeightsError
from stage1_render_teachers.teachers import DenseTeacher, MaskTeacher, build_teacher
from stage1_render_teachers.teachers.mask_filter import MaskFilter, keep_masks
from stage1_render_teachers.teachers.prompt_density import VisibleSurface, draw_prompts
from stage1_render_teachers.teachers.promptable import valid_region
from stage1_render_teachers.teachers.sam_dense import SamDenseTeacher, token_shares
from stage1_render_teachers.teachers.sam_masks import (
    OUTPUTS,
    SamMaskSettings,
    SamMaskTeacher,
    paint,
    regular_points,
)
from stage1_render_teachers.teachers.sam_model import load_sam
from tests.stage1.dense_teacher_checks import check_contract, check_geometry, cosine, pictures
from tests.stage1.small_sam import SIDE, random_state, small_sam


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(segment_anything.sam_model_registry, "small", small_sam)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "sam_small.pth"
    torch.save(random_state(small_sam(), 0), path)
    return path


def predictor(checkpoint: Path) -> SamPredictor:
    sam = small_sam()
    sam.load_state_dict(torch.load(checkpoint, weights_only=True))
    return SamPredictor(sam)


def build_dense(checkpoint: Path) -> SamDenseTeacher:
    teacher = build_teacher(f"sam:small:{checkpoint}")
    assert isinstance(teacher, SamDenseTeacher)
    return teacher


# --- dense -------------------------------------------------------------------------------------------------------


def test_embedding_is_the_predictors_own(checkpoint: Path) -> None:
    stock = predictor(checkpoint)
    model = load_sam(f"small:{checkpoint}", "sam", "cpu")
    images = pictures(0, 5, 90, 60)  # more than a batch
    embedded = model.embed(images)
    for image, ours in zip(images, embedded):
        stock.set_image(image)
        theirs = stock.get_image_embedding()[0]
        assert cosine(ours.permute(1, 2, 0).numpy(), theirs.permute(1, 2, 0).numpy()).min() > 0.99999


def test_tokens_are_cells_where_they_coincide(checkpoint: Path) -> None:
    """A picture of 128 pixels with cells of 16 is what the encoder sees; a wide one fills the upper rows only."""
    teacher = build_dense(checkpoint)
    assert isinstance(teacher, DenseTeacher)
    assert (teacher.channels, teacher.text_aligned) == (32, False)
    stock = predictor(checkpoint)
    for height in (128, 80):
        image = pictures(1, 1, 128, height)
        stock.set_image(image[0])
        expected = stock.get_image_embedding()[0, :, : height // 16].permute(1, 2, 0).numpy()
        features = teacher.features(image, CellGrid(128, height, 16))[0]
        np.testing.assert_allclose(features, expected, atol=1e-4)


@pytest.mark.parametrize(("pixels", "cell", "side_pixels"), [(100, 16, 100), (60, 7, 100), (33, 16, 96), (5, 2, 200)])
def test_shares_are_areas_and_the_padding_gets_none(pixels: int, cell: int, side_pixels: int) -> None:
    """Against counting fine samples: each of 1000 points per pixel belongs to one cell and one token."""
    tokens, token = 8, side_pixels / 8
    shares = token_shares(pixels, cell, tokens, token).numpy()
    position = (np.arange(pixels * 1000) + 0.5) / 1000
    counted = np.zeros_like(shares)
    np.add.at(counted, ((position // cell).astype(int), (position // token).astype(int)), 1)
    np.testing.assert_allclose(shares, counted / counted.sum(1, keepdims=True), atol=1e-3)
    beyond = np.arange(tokens) * token >= pixels
    assert not shares[:, beyond].any()


def test_dense_contract_and_geometry(checkpoint: Path) -> None:
    teacher = build_dense(checkpoint)
    check_contract(teacher, 16)
    check_geometry(teacher, 16)


def test_half_precision_is_close(checkpoint: Path) -> None:
    full, half = build_dense(checkpoint), build_teacher(f"sam:small:{checkpoint}@bf16")
    assert isinstance(half, SamDenseTeacher)
    image, grid = pictures(8, 1, 96, 64), CellGrid(96, 64, 16)
    a, b = full.features(image, grid), half.features(image, grid)
    assert (a != b).any()
    assert cosine(a, b).min() > 0.99


# --- masks -------------------------------------------------------------------------------------------------------

LENIENT = SamMaskSettings(
    points_per_side=6, predicted_iou=0.8, stability=0.3, smallest_pixels=5,
    post_filter=MaskFilter(iou=0.7, score=0.0, inner=0.5),
)  # fmt: skip


def build_masks(checkpoint: Path, settings: SamMaskSettings = LENIENT) -> SamMaskTeacher:
    """The teacher with thresholds that leave something of what random weights predict."""
    return SamMaskTeacher("sam-masks:small", load_sam(f"small:{checkpoint}", "sam-masks", "cpu"), settings)


def unasked() -> VisibleSurface:
    raise AssertionError("a regular grid needs no geometry")


def alone(teacher: MaskTeacher, image: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Masks of one picture."""
    return teacher.masks_of_views(image[None], [seed], [unasked])[0]


@pytest.mark.parametrize(("width", "height"), [(96, 64), (50, 70)])
def test_masks_are_the_predictors_own_one_prompt_at_a_time(checkpoint: Path, width: int, height: int) -> None:
    image = pictures(2, 1, width, height)[0]
    stock = predictor(checkpoint)
    stock.set_image(image)
    rows, cols = valid_region(stock.input_size, SIDE, 32)
    found: dict[int, list[tuple[np.ndarray, np.ndarray, float]]] = {0: [], 1: [], 2: []}
    for point in build_point_grid(6) * [width, height]:
        masks, quality, logits = stock.predict(point[None], np.ones(1), multimask_output=True)
        inside = torch.from_numpy(logits[:, :rows, :cols])
        stability = calculate_stability_score(inside, 0.0, 1.0)
        for k in range(3):
            if inside[k].gt(0).any() and stability[k] > 0.3 and quality[k] > 0.8:
                found[k].append((masks[k], inside[k].numpy() > 0, float(quality[k] * stability[k])))
    levels = alone(build_masks(checkpoint), image)
    assert tuple(levels) == ("whole", "part", "subpart")
    counts = np.zeros(3, dtype=int)  # of masks proposed, kept and seen in the end
    for level, k in (("whole", 2), ("part", 1), ("subpart", 0)):  # the decoder orders its outputs from small to large
        full, low, score = (list(x) for x in zip(*found[k]))
        kept = keep_masks(torch.from_numpy(np.stack(low)), torch.tensor(score), LENIENT.post_filter)
        expected = paint(np.stack([full[i] for i in kept]), 5)
        # Prompts that go through the decoder together round differently: a pixel on an edge may flip.
        assert (levels[level] == expected).mean() > 0.99
        counts += [len(full), len(kept), expected.max() + 1]
    assert counts[0] > counts[1] >= counts[2] > 6


def test_masks_follow_the_contract_and_do_not_depend_on_the_batch(checkpoint: Path) -> None:
    teacher = build_masks(checkpoint)
    assert isinstance(teacher, MaskTeacher)
    assert not isinstance(teacher, DenseTeacher)
    images = pictures(3, 2, 96, 64)
    together = teacher.masks_of_views(images, [0, 1], [unasked] * 2)
    for image, levels in zip(images, together):
        by_itself = alone(teacher, image, seed=7)
        assert max(ids.max() for ids in levels.values()) > 4
        for level, ids in levels.items():
            assert ids.shape == (64, 96)
            assert ids.dtype == np.int32
            np.testing.assert_array_equal(np.unique(ids[ids >= 0]), np.arange(ids.max() + 1))
            assert (ids == by_itself[level]).mean() > 0.99
            np.testing.assert_array_equal(by_itself[level], alone(teacher, image, seed=8)[level])


def test_masks_in_half_precision(checkpoint: Path) -> None:
    image = pictures(2, 1, 96, 64)[0]
    half = SamMaskTeacher("half", load_sam(f"small:{checkpoint}@bf16", "sam-masks", "cpu"), LENIENT)
    for level, ids in alone(half, image).items():
        assert ((ids >= 0) == (alone(build_masks(checkpoint), image)[level] >= 0)).mean() > 0.8


def test_prompts_of_gags_s_density(checkpoint: Path) -> None:
    """The teacher asks for the view's surface and prompts what prompt_density draws from it with the view's seed."""
    settings = LENIENT.model_copy(update={"prompts": "density"})
    teacher = build_masks(checkpoint, settings)
    assert teacher.fingerprint != build_masks(checkpoint).fingerprint
    images = pictures(9, 2, 96, 64)
    pixels = np.arange(96 * 64)
    metres = np.ones(len(pixels))
    near, far = (VisibleSurface(64, 96, pixels, now * metres, metres) for now in (1.0, 1.5))
    found = teacher.masks_of_views(images, [5, 6], [lambda: near, lambda: far])
    for image, seed, surface, levels in zip(images, (5, 6), (near, far), found):
        points = draw_prompts(surface, seed)
        for level, ids in teacher.masks_from_points(image, points).items():
            assert (levels[level] == ids).mean() > 0.99
    assert (len(draw_prompts(near, 5)), len(draw_prompts(far, 6))) == (64 * 4**2, 64 * 6**2)
    spec = f"sam-density-masks:small:{checkpoint}"
    built = build_teacher(spec)
    assert isinstance(built, SamMaskTeacher)
    assert (built.spec, built.settings.prompts) == (spec, "density")


def test_prompts_of_the_caller_and_none_at_all(checkpoint: Path) -> None:
    teacher = build_masks(checkpoint)
    image = pictures(4, 1, 96, 64)[0]
    grid = regular_points(6, 96, 64)
    np.testing.assert_allclose(grid, build_point_grid(6) * [96, 64])
    for level, ids in teacher.masks_from_points(image, grid).items():
        np.testing.assert_array_equal(ids, alone(teacher, image)[level])
    for ids in teacher.masks_from_points(image, np.zeros((0, 2))).values():
        assert (ids == -1).all()


def test_a_picture_without_good_masks_is_empty(checkpoint: Path) -> None:
    strict = LENIENT.model_copy(update={"predicted_iou": 1e6})
    for ids in alone(build_masks(checkpoint, strict), pictures(5, 1, 64, 64)[0]).values():
        assert (ids == -1).all()


def test_batches_of_prompts_halve_and_give_the_same_masks(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = build_masks(checkpoint)
    image = pictures(6, 1, 96, 64)[0]
    expected = alone(teacher, image)
    whole = teacher._propose

    def tight(embedding: torch.Tensor, coords: torch.Tensor, inside: tuple[int, int]) -> object:
        if len(coords) > 10:
            raise torch.OutOfMemoryError
        return whole(embedding, coords, inside)

    monkeypatch.setattr(teacher, "_propose", tight)
    for level, ids in alone(teacher, image).items():
        assert (ids == expected[level]).mean() > 0.99
    assert teacher._prompts.size <= 10


# --- building ----------------------------------------------------------------------------------------------------


def test_fingerprints_tell_weights_settings_and_kind_apart(checkpoint: Path, tmp_path: Path) -> None:
    torch.save(random_state(small_sam(), 1), tmp_path / "other.pth")
    specs = [f"sam:small:{checkpoint}", f"sam:small:{tmp_path / 'other.pth'}", f"sam:small:{checkpoint}@bf16",
             f"sam-masks:small:{checkpoint}"]  # fmt: skip
    prints = [build_teacher(spec).fingerprint for spec in specs] + [build_masks(checkpoint).fingerprint]
    assert len(set(prints)) == len(prints)
    assert build_teacher(specs[0]).fingerprint == prints[0]


def test_missing_and_wrong_checkpoints_are_one_line(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown SAM 'vit_x'; known: vit_h, vit_l, vit_b"):
        build_teacher("sam:vit_x:file.pth")
    with pytest.raises(ConfigError, match=r"download https://dl.fbaipublicfiles.com/.*sam_vit_b_01ec64.pth"):
        build_teacher("sam:vit_b")
    with pytest.raises(WeightsError, match=r"none.pth: no such weights file; download .*sam_vit_l_0b3195.pth"):
        build_teacher(f"sam-masks:vit_l:{tmp_path}/none.pth")
    state = random_state(small_sam(), 0)
    state["image_encoder.extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "extra.pth")
    with pytest.raises(WeightsError, match=r"unknown tensor image_encoder\.extra"):
        build_teacher(f"sam:small:{tmp_path / 'extra.pth'}")
    del state["image_encoder.extra"], state["image_encoder.pos_embed"]
    torch.save(state, tmp_path / "lacks.pth")
    with pytest.raises(WeightsError, match=r"lacks tensor image_encoder\.pos_embed"):
        build_teacher(f"sam:small:{tmp_path / 'lacks.pth'}")
    state["image_encoder.pos_embed"] = torch.zeros(1, 4, 4, 48)
    torch.save(state, tmp_path / "shape.pth")
    with pytest.raises(WeightsError, match=r"pos_embed is \(1, 4, 4, 48\), not \(1, 8, 8, 48\)"):
        build_teacher(f"sam:small:{tmp_path / 'shape.pth'}")


@pytest.mark.slow
def test_published_vit_b(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(segment_anything.sam_model_registry["vit_b"]().state_dict(), tmp_path / "vit_b.pth")
    teacher = build_teacher(f"sam:vit_b:{tmp_path / 'vit_b.pth'}")
    assert isinstance(teacher, DenseTeacher)
    features = teacher.features(pictures(7, 1, 320, 240), CellGrid(320, 240, 16))
    assert features.shape == (1, 15, 20, 256)
    masks = build_teacher(f"sam-masks:vit_b:{tmp_path / 'vit_b.pth'}")
    assert isinstance(masks, SamMaskTeacher)
    assert set(masks.masks_from_points(pictures(7, 1, 320, 240)[0], regular_points(2, 320, 240))) == set(OUTPUTS)
