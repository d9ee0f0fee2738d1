"""What a fine-tuned model says about a whole scene: a class per Gaussian, or instances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from chorus_common.scene import GaussianScene
from evaluation.finetuning.model import Segmentor
from evaluation.heads.grouping import GroupingConfig, Instances, group
from stage2_distill.encoder.inputs import scene_inputs

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ScenePrediction:
    """Predictions on the M voxels of a scene: probabilities [M, K], coord [M, 3] m, offsets [M, 3] m or None;
    inverse [N] gives the voxel of every Gaussian. Gaussians of one voxel share its prediction.
    """

    probabilities: F32
    coord: F32
    offsets: F32 | None
    inverse: NDArray[np.int64]

    def classes(self) -> NDArray[np.int32]:
        """[N] most probable class of every Gaussian, the lowest of several."""
        return self.probabilities.argmax(axis=1).astype(np.int32)[self.inverse]

    def instances(self, grid_size: float, things: NDArray[np.bool_], config: GroupingConfig) -> Instances:
        """Instances over the N Gaussians. grid_size: the encoder's voxel, in metres."""
        assert self.offsets is not None, "only a model with an offset head has instances"
        found = group(self.probabilities, self.coord, self.offsets, config.radius * grid_size, things, config)
        return found.on(self.inverse)


@torch.no_grad()
def predict(model: Segmentor, scene: GaussianScene) -> ScenePrediction:
    """Run `model` on `scene` as a whole, in eval mode (it is left in the mode it was in)."""
    batch, inverse = scene_inputs(scene, model.encoder.config)
    was_training = model.training
    model.eval()
    try:
        out = model(batch.to(next(model.parameters()).device))
    finally:
        model.train(was_training)
    offsets = None if out.offsets is None else out.offsets.float().cpu().numpy()
    coord = model.encoder.config.inputs.metres(batch.coord).numpy()
    return ScenePrediction(out.logits.float().softmax(1).cpu().numpy(), coord, offsets, inverse)
