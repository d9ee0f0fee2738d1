"""SAM 2.1's smallest published architecture (hiera-tiny) for pictures of 256 pixels, with seeded random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SIDE = 256


def sam2_parts(side: int = SIDE) -> dict[str, Any]:
    """Parts of a config of hiera-tiny, which transformers' defaults are, for a square of `side` pixels."""
    sizes = [[side // k, side // k] for k in (4, 8, 16)]
    backbone = {"model_type": "sam2_hiera_det_model", "image_size": [side, side]}
    return {
        "vision_config": {"backbone_config": backbone, "backbone_feature_sizes": sizes},
        "prompt_encoder_config": {"image_size": side},
        "mask_decoder_config": {},
    }


def small_sam2(seed: int = 0, side: int = SIDE) -> Any:
    """transformers' own model. Of its random weights some things are true as of trained ones: masks have both signs,
    and which one is the largest differs from prompt to prompt."""
    from transformers import Sam2Config, Sam2Model

    torch.manual_seed(seed)
    network = Sam2Model(Sam2Config(**sam2_parts(side))).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.is_floating_point() and "layer_norm" not in name:
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(noise / max(1, value[0].numel()) ** 0.5 if value.dim() > 1 else value + 0.1 * noise)
        if "mask_decoder.transformer" in name and name.endswith(("q_proj.weight", "k_proj.weight")):
            value.mul_(4)  # prompts tell places apart
    return network


def save_sam2(folder: Path, seed: int = 0, side: int = SIDE) -> Path:
    """A folder as `save_pretrained` leaves it."""
    small_sam2(seed, side).save_pretrained(folder)
    return folder
