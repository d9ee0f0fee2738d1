"""Features for every Gaussian of a scene in one pass, whatever its size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chorus_common.scene import GaussianScene
from stage2_distill.encoder import Encoder
from stage2_distill.encoder.inputs import scene_inputs


@dataclass(frozen=True)
class VoxelFeatures:
    """An encoder's output for one scene, on the CPU: values [M, D] f32 of its voxels; voxel [N] i64 of Gaussians."""

    values: Tensor
    voxel: Tensor

    def rows(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Features [stop - start, D] of these Gaussians; those of one voxel share a row."""
        return self.values[self.voxel[start:stop]]


@torch.no_grad()
def encode_voxels(encoder: Encoder, scene: GaussianScene, *, absent: tuple[str, ...] = ()) -> VoxelFeatures:
    """Features of the voxels of `scene`, and the voxel of every Gaussian, in the scene's order.

    The encoder is used in eval mode (and left in the mode it was in) on the device where its weights are.

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
    return VoxelFeatures(features.float().cpu(), torch.from_numpy(inverse))


def encode_scene(encoder: Encoder, scene: GaussianScene, *, absent: tuple[str, ...] = ()) -> Tensor:
    """Features [N, D] f32 on the CPU, one row per Gaussian of `scene`, in its order; see `encode_voxels`."""
    return encode_voxels(encoder, scene, absent=absent).rows()
