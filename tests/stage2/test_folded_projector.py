"""The folded projector against the plain one."""

from __future__ import annotations

import numpy as np
import torch

from evaluation.features import ArrayFeatures
from evaluation.tasks.zero_shot import classify
from stage2_distill.folded_projector import FoldedProjector
from stage2_distill.projectors import NormInputProjector


def test_dot_products_are_those_of_the_plain_form() -> None:
    torch.manual_seed(0)
    projector = NormInputProjector(20, 80, 24).eval()
    latent, texts = torch.randn(50, 20), torch.nn.functional.normalize(torch.randn(7, 24), dim=-1)
    with torch.no_grad():
        plain = projector(latent) @ texts.T
        torch.testing.assert_close(FoldedProjector(projector, texts)(latent), plain, atol=1e-5, rtol=1e-5)


class _Scored(ArrayFeatures):
    def rows(self, start: int, stop: int) -> np.ndarray:
        raise AssertionError("the wide features are not needed")

    def scores(self, start: int, stop: int, text: np.ndarray) -> np.ndarray | None:
        return self.values[start:stop] @ text.T


def test_classes_come_from_scores_where_features_have_them() -> None:
    rng = np.random.default_rng(0)
    values, text = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(5, 6)).astype(np.float32)
    np.testing.assert_array_equal(classify(_Scored(values), 40, text), classify(ArrayFeatures(values), 40, text))
