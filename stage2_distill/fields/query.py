"""Ask a field: per Gaussian, per cell of a view of its cache, or per pixel of any camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chorus_common.cache import SceneCache
from chorus_common.rasterize import render_values
from chorus_common.text.relevancy import relevancy
from stage2_distill.fields.rendering import ViewMatrix, view_matrices
from stage2_distill.fields.saved import SavedField

F32 = NDArray[np.float32]

#: Vectors per pass of the decoder: a whole picture of 512-d features would take gigabytes.
PASS = 1 << 15


@dataclass(frozen=True, eq=False)
class FieldView:
    """A field together with the cache it belongs to. Raises CacheError where they do not belong together."""

    field: SavedField
    cache: SceneCache

    def __post_init__(self) -> None:
        self.field.card.check_cache(self.cache.fingerprint, self.cache.path)

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """[N] Gaussians that training has moved: those that some supervised cell shows. Nothing is known of others."""
        return (self.field.model.vectors.detach() != 0).any(dim=1).cpu().numpy()

    def gaussian_features(self) -> F32:
        """Unit features [N, E] of every Gaussian in the cache's row order; rows of zeros where it was never seen."""
        features = in_passes(self.field.model.vectors.detach(), self._decoded)
        features[~self.seen] = 0
        return features

    def gaussian_relevancy(self, queries: F32, phrases: F32) -> F32:
        """[N, Q] relevancy of every Gaussian, 0 where it was never seen. queries [Q, E], phrases [P, E] unit rows."""
        scores = in_passes(self.field.model.vectors.detach(), lambda x: relevancy(self._decoded(x), queries, phrases))
        scores[~self.seen] = 0
        return scores

    def cell_relevancy(self, view: int, queries: F32, phrases: F32) -> F32:
        """[rows, cols, Q] relevancy of the cells of one of the cache's views, NaN where nothing is: no rasteriser."""
        matrix = self._matrix(view)
        grid = self.cache.attributes.grid.grid
        with torch.no_grad():
            rendered = matrix.render(self.field.model.vectors)
        scores = np.full((grid.cells, len(queries)), np.nan, np.float32)
        scores[matrix.cells] = in_passes(rendered, lambda x: relevancy(self._decoded(x), queries, phrases))
        return scores.reshape(grid.rows, grid.cols, -1)

    def pixel_relevancy(
        self, viewmat: NDArray[np.floating], intrinsics: NDArray[np.floating], width: int, height: int, queries: F32,
        phrases: F32,
    ) -> F32:  # fmt: skip
        """[H, W, Q] relevancy seen from any camera (viewmat [4, 4] world to camera, intrinsics [3, 3] in pixels), NaN
        where less than half a pixel is covered. Vectors are rendered, then decoded.
        """
        scene = self.cache.scene()
        vectors = self.field.model.vectors.detach().cpu().numpy()
        picture, alpha = render_values(scene, viewmat, intrinsics, width, height, vectors)
        covered = alpha.ravel() >= 0.5
        mean = torch.from_numpy(picture.reshape(width * height, -1)[covered] / alpha.ravel()[covered, None])
        scores = np.full((width * height, len(queries)), np.nan, np.float32)
        scores[covered] = in_passes(mean, lambda x: relevancy(self._decoded(x), queries, phrases))
        return scores.reshape(height, width, -1)

    def _matrix(self, view: int) -> ViewMatrix:
        index = self.cache.lifting().select_views([view])
        device = self.field.model.vectors.device
        return view_matrices(index, [0], min_alpha=self.field.card.config.min_alpha, device=device)[0]

    def _decoded(self, vectors: Tensor) -> F32:
        return self.field.model.decode(vectors.to(self.field.model.vectors)).cpu().numpy()


@torch.inference_mode()
def in_passes(vectors: Tensor, answer: Callable[[Tensor], F32]) -> F32:
    """Answers of rows, a pass at a time."""
    return np.concatenate([answer(part) for part in vectors.split(PASS)])
