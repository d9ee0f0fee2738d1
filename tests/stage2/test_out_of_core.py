"""Encoding in blocks with features on disk: the numbers of one pass, whatever the block size; killed and taken up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_common.errors import ConfigError, SceneError
from stage2_distill.encoder import Encoder, PointBatch, build_encoder
from stage2_distill.encoder.hierarchy import build_hierarchy
from stage2_distill.encoder.out_of_core import encode_out_of_core
from stage2_distill.encoder.scratch import Scratch
from stage2_distill.encoder.voxel_rows import VoxelRows
from tests.stage2.clouds import cloud, permuted

SMALL: dict[str, Any] = {
    "enc_channels": (24, 36, 48),
    "enc_depths": (2, 1, 2),
    "enc_patch_size": (32, 24, 16),
    "dec_channels": (32, 36),
}
PRESETS: list[tuple[str, dict[str, Any]]] = [
    ("chorus", {}),
    ("scenesplat", {"dec_depths": (2, 1)}),
    ("ptv3", {"dec_depths": (1, 2), "layer_scale": 0.5, "stride": (2, 4)}),
    ("sonata", {}),
    ("sonata", {"upcast": 1, "stride": (3, 2)}),
    ("litept-s-star", {"dec_depths": (1, 1)}),
    ("chorus", {"block": "basic", "input_norm": True}),
]


def small(preset: str, **overrides: Any) -> Encoder:
    torch.manual_seed(0)
    encoder = build_encoder(preset, **(SMALL | overrides))
    for module in encoder.modules():  # statistics and scales of a trained network, not the identity of a fresh one
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(std=0.1)  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return encoder.eval()


def sorted_cloud(n: int, channels: int, seed: int = 0, extent: int = 24) -> PointBatch:
    """A cloud with rows in (x, y, z) order, as `scene_inputs` makes them."""
    batch = cloud(n, channels, seed, extent)
    x, y, z = batch.grid_coord.unbind(1)
    return permuted(batch, torch.argsort((x * 1000 + y) * 1000 + z))


@pytest.mark.parametrize(("preset", "overrides"), PRESETS)
def test_result_is_that_of_one_pass(preset: str, overrides: dict[str, Any], tmp_path: Path) -> None:
    encoder = small(preset, **overrides)
    batch = sorted_cloud(700, encoder.config.in_channels)
    with torch.no_grad():
        whole = encoder(batch)
    for rows in (23, 160, 10_000):
        result, scratch = encode_out_of_core(encoder, batch, tmp_path / "work", rows)
        assert result.shape == whole.shape
        assert (result - whole).abs().max() / whole.abs().max() < 1e-5
        scratch.remove()
        assert not (tmp_path / "work").exists()
