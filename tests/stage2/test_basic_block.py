"""Basic blocks, standardised inputs and the shape attribute as parts of an encoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chorus_common.normals import shortest_axes
from stage2_distill.encoder import build_encoder
from stage2_distill.encoder.inputs import scene_inputs
from tests.chorus_common.scene_files import random_scene

SMALL = {
    "block": "basic",
    "norm": "batch",
    "enc_channels": (16, 32, 48),
    "enc_depths": (1, 1, 1),
    "dec_channels": (24, 24),
    "dec_depths": (1, 0),
    "input_norm": True,
    "inputs": {"grid_size": 0.1, "features": ["coord", "color", "normal", "shape"]},
}


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_tiled_inference_equals_the_training_path(norm: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder("chorus-lite", **(SMALL | {"norm": norm}))
    batch, _ = scene_inputs(random_scene(3000), encoder.config)
    with torch.no_grad():  # running statistics, and last norms off zero, so that every part shows
        for name, parameter in encoder.named_parameters():
            if name.endswith("conv.3.weight"):
                parameter.fill_(0.7)
    encoder.train()
    encoder(batch)
    encoder.eval()
    with torch.no_grad():
        inferred = encoder(batch)
    with torch.enable_grad():
        plain = encoder(batch)
    torch.testing.assert_close(inferred, plain.detach(), rtol=1e-4, atol=1e-5)
    assert inferred.std() > 0.01


def test_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    with_blocks = build_encoder("chorus-lite", **SMALL)
    without = build_encoder("chorus-lite", **(SMALL | {"enc_depths": (0, 0, 1), "dec_depths": (0, 0)}))
    without.load_state_dict(with_blocks.state_dict(), strict=False)
    batch, _ = scene_inputs(random_scene(500), with_blocks.config)
    with torch.no_grad():
        stem = with_blocks.eval().embedding(batch.feat, with_blocks.hierarchy(batch)[0])
        block = with_blocks.enc.get_submodule("enc0.block0")
        after = block(stem, with_blocks.hierarchy(batch)[0], None)
    torch.testing.assert_close(after, torch.nn.functional.gelu(stem))


def test_input_statistics_are_means_over_all_batches() -> None:
    encoder = build_encoder("chorus-lite", **SMALL)
    batches = [scene_inputs(random_scene(400 + 50 * i, seed=i), encoder.config)[0] for i in range(3)]
    encoder.train()
    for batch in batches:
        encoder(batch)
    expected = torch.stack([b.feat.mean(0) for b in batches]).mean(0)
    torch.testing.assert_close(encoder.embedding.input_norm.running_mean, expected, rtol=1e-4, atol=1e-5)


def test_units_of_inputs_do_not_matter() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("chorus-lite", **SMALL)
    batch, _ = scene_inputs(random_scene(600), encoder.config)
    encoder.train()
    scaled = type(batch)(batch.coord, batch.grid_coord, batch.feat * 1000, batch.offset)
    outputs = []
    for fed in (batch, scaled):
        torch.manual_seed(1)  # drop path and shuffled curves
        outputs.append(encoder(fed))
    torch.testing.assert_close(*outputs, rtol=1e-2, atol=1e-2)


def test_shape_is_of_one_point_per_voxel() -> None:
    """Splats laid twice over each other have the shape context of one. Their normals are given: the sign of estimated
    ones depends on how much surface a voxel holds.
    """
    scene = random_scene(300)
    scene = replace(scene, normals=shortest_axes(scene))
    twice = scene.select(np.repeat(np.arange(len(scene)), 2))
    config = build_encoder("chorus-lite", **SMALL).config
    once, double = scene_inputs(scene, config)[0], scene_inputs(twice, config)[0]
    torch.testing.assert_close(once.feat, double.feat)
