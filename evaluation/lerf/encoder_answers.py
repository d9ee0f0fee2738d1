"""The answers of features that lie on Gaussians (an encoder's, or files) in the size of an annotated frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet
from chorus_common.rasterize import render_values
from chorus_common.scene import GaussianScene
from chorus_common.text import TextEncoder
from chorus_common.text.relevancy import encode_queries
from evaluation.features import SceneFeatures
from evaluation.relevancy import scene_relevancy

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EncoderAnswers:
    """`evaluation.lerf.protocol.Answer` of per-Gaussian features: the relevancy of every Gaussian, its mean drawn along
    each pixel's ray. A field renders features and compares then; with 1152 channels that would be 1152 pictures.

    views: frame -> row of `cameras`.
    """

    scene: GaussianScene
    cameras: CameraSet
    views: dict[str, int]
    features: SceneFeatures
    encoder: TextEncoder
    _known: dict[str, F32] = field(default_factory=dict)

    def of_gaussians(self, text: str) -> F32:
        """Relevancy [N] of the scene's Gaussians; 0 where a feature is zero."""
        if text not in self._known:
            queries, phrases = encode_queries(self.encoder, [text])
            self._known[text] = scene_relevancy(self.features, len(self.scene), queries, phrases)[:, 0]
        return self._known[text]

    def __call__(self, name: str, width: int, height: int, texts: list[str]) -> F32:
        """Relevancy [H, W, Q], NaN where less than half a pixel is covered."""
        own, row = self.cameras.resized(width, height), self.views[name]
        heat = np.stack([self.of_gaussians(text) for text in texts], axis=1)
        drawn, alpha = render_values(self.scene, own.viewmats[row], own.intrinsics[row], width, height, heat)
        covered = alpha[..., None] >= 0.5
        return np.where(covered, drawn / np.where(covered, alpha[..., None], 1), np.nan).astype(np.float32)
