"""A field's answers in the size of an annotated frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.text import TextEncoder
from chorus_common.text.relevancy import encode_queries
from stage2_distill.fields import FieldView

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FieldAnswers:
    """`evaluation.lerf.protocol.Answer` of a field: rendered by the camera of the frame's name, at the frame's size.

    views: frame -> row of the cache's cameras.
    """

    view: FieldView
    views: dict[str, int]
    encoder: TextEncoder

    def __call__(self, name: str, width: int, height: int, texts: list[str]) -> F32:
        """Relevancy [H, W, Q], NaN where nothing is."""
        cameras = self.view.cache.cameras().resized(width, height)
        row = self.views[name]
        queries, phrases = encode_queries(self.encoder, texts)
        return self.view.pixel_relevancy(
            cameras.viewmats[row], cameras.intrinsics[row], width, height, queries, phrases
        )

    def of_gaussians(self, text: str) -> F32:
        """Relevancy [N] of the scene's Gaussians, in the cache's row order; 0 where the field knows nothing."""
        return self.view.gaussian_relevancy(*encode_queries(self.encoder, [text]))[:, 0]
