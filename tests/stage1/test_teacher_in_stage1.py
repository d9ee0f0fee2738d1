"""Published kinds of networks all the way into a cache: calibration, dense passes, masks in batches, embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import segment_anything
import torch

from chorus_common.cache import SceneCache
from chorus_common.lifting import CellGrid
from chorus_common.manifest import Manifest
from chorus_common.text import load_text_encoder
from stage1_render_teachers.run import run_stage1
from stage1_render_teachers.settings import RunConfig
from stage1_render_teachers.teachers import DenseTeacher, build_teacher, sam_masks, teacher_name
from stage1_render_teachers.teachers.mask_embeddings import pool_under_masks, unit_rows
from stage1_render_teachers.teachers.sam_model import load_sam
from tests.stage1.small_rooms import CONFIG, write_rooms
from tests.stage1.test_teacher_open_clip import CLIP_TINY, save_random
from tests.stage1.test_teacher_sam import LENIENT, alone, random_state, small_sam


def test_a_store_made_by_neural_teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    (tmp_path / "clip-small.json").write_text(json.dumps(CLIP_TINY))
    open_clip.add_model_config(tmp_path / "clip-small.json")
    clip = f"open_clip:clip-small:{save_random('clip-small', tmp_path)}"

    monkeypatch.setitem(segment_anything.sam_model_registry, "small", small_sam)
    torch.save(random_state(small_sam(), 0), tmp_path / "sam.pth")
    dense, masks = f"sam:small:{tmp_path / 'sam.pth'}", f"sam-masks:small:{tmp_path / 'sam.pth'}"
    # Random weights are never sure of a mask: the settings that leave some.
    segmenter = sam_masks.SamMaskTeacher(masks, load_sam(f"small:{tmp_path / 'sam.pth'}", "sam-masks", "cpu"), LENIENT)
    monkeypatch.setattr(sam_masks, "build_sam_masks", lambda argument, device: segmenter)

    config = CONFIG.model_copy(update={"teachers": (masks, clip, dense), "bits": "fp16"})
    rows = list(Manifest.read(write_rooms(tmp_path / "rooms", 1)))
    run_stage1(rows, tmp_path / "store", config, RunConfig())
    cache = SceneCache.open(tmp_path / "store" / "tiny" / "scene00.zarr")

    images, grid = cache.rgb(), CellGrid(config.width, config.height, config.cell)
    for spec in (clip, dense):
        teacher = build_teacher(spec)
        assert isinstance(teacher, DenseTeacher)
        attributes = cache.dense_teachers[teacher_name(spec)]
        assert (attributes.spec, attributes.fingerprint) == (spec, teacher.fingerprint)
        assert attributes.text_aligned == teacher.text_aligned
    assert cache.dense_teachers[teacher_name(clip)].fingerprint.startswith(load_text_encoder(clip).pair)

    teacher = build_teacher(clip)
    assert isinstance(teacher, DenseTeacher)
    tokens = teacher.features(images, grid).reshape(len(images), grid.cells, -1)
    found = 0
    for level in segmenter.levels:
        stored = cache.masks(teacher_name(masks), level)
        offsets, embeddings = cache.mask_embeddings(teacher_name(masks), level)
        for view, image in enumerate(images):
            assert (stored[view] == alone(segmenter, image)[level]).mean() > 0.99
            pooled = unit_rows(pool_under_masks(stored[view], tokens[view], grid))
            np.testing.assert_allclose(embeddings[offsets[view] : offsets[view + 1]], pooled, atol=2e-3)
            found += len(pooled)
    assert found > 10
