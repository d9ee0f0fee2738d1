"""Features for every Gaussian."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stage2_distill.encode import encode_scene
from stage2_distill.encoder import blocks, build_encoder, sparse_conv
from stage2_distill.encoder.inputs import scene_inputs
from tests.stage2.test_inputs import scene


def test_every_gaussian_has_the_row_of_its_voxel() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("chorus-lite", enc_channels=(24, 36, 48)).train()
    s = scene(side=0.2)
    features = encode_scene(encoder, s)
    assert features.shape == (len(s), encoder.out_channels)
    assert encoder.training  # left as it was
    batch, inverse = scene_inputs(s, encoder.config)
    with torch.no_grad():
        expected = encoder.eval()(batch)
    torch.testing.assert_close(features, expected[torch.from_numpy(inverse)], rtol=1e-4, atol=1e-5)
    assert torch.equal(features, encode_scene(encoder, s))


def test_order_of_the_file_does_not_matter() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("chorus-lite", enc_channels=(24, 36, 48)).eval()
    s = scene()
    order = np.random.default_rng(0).permutation(len(s))
    assert torch.equal(encode_scene(encoder, s)[torch.from_numpy(order)], encode_scene(encoder, s.select(order)))


@pytest.mark.parametrize("preset", ["chorus-lite", "scenesplat", "sonata"])
def test_block_size_does_not_matter(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes are worked on in blocks of rows whose patches and neighbours are those of the whole scene."""
    torch.manual_seed(0)
    encoder = build_encoder(preset, enc_channels=(24, 36, 48), enc_patch_size=(32,) * 3, dec_channels=(32, 36)).eval()
    s = scene(600)
    whole = encode_scene(encoder, s)
    for module in (blocks, sparse_conv):
        monkeypatch.setattr(module, "CPU_TILE", 50)
    parts = encode_scene(encoder, s)
    assert (parts - whole).abs().max() / whole.abs().max() < 1e-5
