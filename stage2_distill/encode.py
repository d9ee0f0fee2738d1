"""Features for every Gaussian of a scene in one pass, whatever its size."""

from __future__ import annotations

import torch
from torch import Tensor

from chorus_common.scene import GaussianScene
from stage2_distill.encoder import Encoder
from stage2_distill.encoder.inputs import scene_inputs


@torch.no_grad()
def encode_scene(encoder: Encoder, scene: GaussianScene, *, absent: tuple[str, ...] = ()) -> Tensor:
    """Features [N, D] f32 on the CPU, one row per Gaussian of `scene`, in its order.

    The encoder is used in eval mode (and left in the mode it was in) on the device where its weights are. Gaussians
    of one voxel share a row.

    Args:
        absent: attributes to treat as missing (see `scene_inputs`).
    """
    batch, inverse = scene_inputs(scene, encoder.config, absent=absent)
    device = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.eval()
    try:
        features = encoder(batch.to(device))
    finally:
        encoder.train(was_training)
    return features.float().cpu()[torch.from_numpy(inverse)]
