"""SAM 2.1 as a dense teacher and as a mask source, against transformers' own forward pass, prompt by prompt."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import ConfigError, WeightsError
from stage1_render_teachers.teachers import DenseTeacher, MaskTeacher, build_teacher, sam2_model
from stage1_render_teachers.teachers.mask_filter import MaskFilter, keep_masks
from stage1_render_teachers.teachers.sam2_model import load_sam2
from stage1_render_teachers.teachers.sam_masks import (
    OUTPUTS,
    SamMaskSettings,
    SamMaskTeacher,
    paint,
    regular_points,
    stability_score,
)
from tests.stage1.dense_teacher_checks import check_contract, pictures
from tests.stage1.small_sam2 import SIDE, sam2_parts, save_sam2, small_sam2

LENIENT = SamMaskSettings(
    points_per_side=4, predicted_iou=0.0, stability=0.05, smallest_pixels=5,
    post_filter=MaskFilter(iou=0.7, score=0.0, inner=0.5),
)  # fmt: skip
WIDTH, HEIGHT = 96, 64


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sam2(tmp_path_factory.mktemp("sam2"))


@cache
def stock() -> Any:
    """The library's model, not loaded from a folder."""
    return small_sam2()


def pixels(images: np.ndarray) -> Tensor:
    """What the library's processor makes of pictures."""
    from transformers import Sam2ImageProcessor

    processor = Sam2ImageProcessor(size={"height": SIDE, "width": SIDE})
    found: Tensor = processor(images=list(images), return_tensors="pt")["pixel_values"]
    return found


def ask(image: np.ndarray, points: np.ndarray) -> list[tuple[Tensor, Tensor]]:
    """The library's masks [3, s, s] and predicted IoU [3] of one point after the other, smallest mask first."""
    found = []
    with torch.inference_mode():
        embeddings = stock().get_image_embeddings(pixels(image[None]))
        for x, y in points:
            point = torch.tensor([[[[x * SIDE / WIDTH, y * SIDE / HEIGHT]]]], dtype=torch.float32)
            out = stock()(image_embeddings=embeddings, input_points=point, multimask_output=True)
            masks, quality = out.pred_masks[0, 0], out.iou_scores[0, 0]
            order = (masks > 0).flatten(1).sum(1).argsort(stable=True)
            found.append((masks[order], quality[order]))
    return found


def test_answers_are_the_librarys_own(folder: Path) -> None:
    image, points = pictures(2, 1, WIDTH, HEIGHT)[0], regular_points(3, WIDTH, HEIGHT)
    model = load_sam2(str(folder), "sam2-masks", "cpu")
    coords = torch.from_numpy(points * [SIDE / WIDTH, SIDE / HEIGHT]).float()
    logits, quality = model.answer(model.pictures(image[None])[0], coords, (SIDE, SIDE), -1.0)
    expected = ask(image, points)
    for k, (masks, scores) in enumerate(expected):
        torch.testing.assert_close(logits[k], masks, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(quality[k], scores, atol=1e-4, rtol=1e-4)
    limit = float(torch.stack([scores.max() for _, scores in expected]).median())
    some, _ = model.answer(model.pictures(image[None])[0], coords, (SIDE, SIDE), limit)
    assert 0 < len(some) < len(points)


def test_masks_are_those_of_one_prompt_at_a_time(folder: Path) -> None:
    """Filtered, scaled up and painted; three levels, the largest mask of a prompt in "whole"."""
    image = pictures(2, 1, WIDTH, HEIGHT)[0]
    teacher = SamMaskTeacher("sam2-masks:small", load_sam2(str(folder), "sam2-masks", "cpu"), LENIENT)
    assert isinstance(teacher, MaskTeacher)
    levels = teacher.masks_from_points(image, regular_points(4, WIDTH, HEIGHT))
    found: dict[int, list[tuple[Tensor, float]]] = {0: [], 1: [], 2: []}
    for masks, quality in ask(image, regular_points(4, WIDTH, HEIGHT)):
        stability = stability_score(masks)
        for k in range(3):
            if (masks[k] > 0).any() and quality[k] > 0 and stability[k] > 0.05:
                found[k].append((masks[k], float(quality[k] * stability[k])))
    seen = 0
    for level, output in OUTPUTS.items():
        logits = torch.stack([m for m, _ in found[output]])
        kept = keep_masks(logits > 0, torch.tensor([s for _, s in found[output]]), LENIENT.post_filter)
        full = torch.nn.functional.interpolate(logits[kept][:, None], (HEIGHT, WIDTH), mode="bilinear")[:, 0] > 0
        assert (levels[level] == paint(full.numpy(), 5)).mean() > 0.99
        seen += int(levels[level].max()) + 1
    assert seen >= 3


def test_features_are_the_librarys_own(folder: Path) -> None:
    """A square picture with a cell per token; others are stretched to the square, so that cells and tokens overlap."""
    teacher = build_teacher(f"sam2:{folder}")
    assert isinstance(teacher, DenseTeacher)
    assert (teacher.channels, teacher.text_aligned) == (256, False)
    images = pictures(3, 2, SIDE, SIDE)
    with torch.inference_mode():
        expected = stock().get_image_embeddings(pixels(images))[-1].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(teacher.features(images, CellGrid(SIDE, SIDE, 16)), expected, atol=1e-4)
    check_contract(teacher, 16)


def test_the_hubs_layout_for_videos_is_the_same_teacher(folder: Path, tmp_path: Path) -> None:
    from transformers import Sam2VideoConfig, Sam2VideoModel

    video = Sam2VideoModel(Sam2VideoConfig(image_size=SIDE, **sam2_parts()))
    missing = video.load_state_dict(stock().state_dict(), strict=False).missing_keys
    assert any(name.startswith("memory_") for name in missing)
    video.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sam2_video"
    assert build_teacher(f"sam2:{tmp_path}").fingerprint == build_teacher(f"sam2:{folder}").fingerprint


def test_fingerprints_and_specs(folder: Path) -> None:
    specs = [
        f"{family}:{folder}{at}" for family in ("sam2", "sam2-masks", "sam2-density-masks") for at in ("", "@bf16")
    ]
    teachers = [build_teacher(spec) for spec in specs]
    assert [teacher.spec for teacher in teachers] == specs
    assert len({teacher.fingerprint for teacher in teachers}) == len(specs)


def test_what_is_missing_or_wrong_is_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"sam2-masks:nowhere: no such folder; expected sam2-masks:FOLDER or"):
        build_teacher("sam2-masks:nowhere")
    with pytest.raises(WeightsError, match=r"cannot load it .*needs config.json and model.safetensors"):
        build_teacher(f"sam2:{tmp_path}")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(WeightsError, match=r"cannot load it .*give their folder"):
        build_teacher(f"sam2:{tmp_path}")
    tensors = load_file(folder / "model.safetensors")
    del tensors["mask_decoder.iou_token.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"lack or misfit mask_decoder.iou_token.weight \(1 such\)"):
        build_teacher(f"sam2:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(WeightsError, match=r"is a model of type 'siglip', not SAM 2"):
        build_teacher(f"sam2:{tmp_path}")
    sam2_model._load.cache_clear()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"needs the package transformers: pip install 'chorus3d\[sam2\]'"):
        build_teacher(f"sam2:{folder}")
