"""How much a feature answers a text: LERF's relevancy.

Kerr et al., "LERF: Language Embedded Radiance Fields", ICCV 2023, section 3.3: the probability that a feature prefers
the query to a canonical phrase ("object", "things", "stuff", "texture"), for the phrase where it is least,

    min_i exp(s f.q) / (exp(s f.q) + exp(s f.n_i)) = sigmoid(s (f.q - max_i f.n_i)).

The paper's formula has s = 1; its code (lerf/encoders/openclip_encoder.py), and all that compare with it, s = 10, which
is the default here. 0.5 means: as near to the query as to the nearest canonical phrase.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chorus_common.relevancy import CANONICAL_PHRASES
from chorus_common.text import TextEncoder
from evaluation.features import PASS, SceneFeatures
from evaluation.prompts import class_embeddings

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

SCALE = 10.0


def relevancy(
    features: NDArray[np.floating], queries: F32, negatives: F32, *, scale: float = SCALE
) -> NDArray[np.floating]:
    """[N, Q] in (0, 1) of features [N, C] (any length; rows of zeros give 0) and unit rows queries [Q, C], negatives
    [M, C].
    """
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.divide(features, length, out=np.zeros_like(features), where=length > 0)
    margin = unit @ queries.T - (unit @ negatives.T).max(axis=1, keepdims=True)
    return np.where(length > 0, 1 / (1 + np.exp(-scale * margin)), 0).astype(features.dtype)


def query_embeddings(encoder: TextEncoder, queries: Sequence[str], prompts: str) -> tuple[F32, F32]:
    """(queries [Q, C], canonical phrases [4, C]), unit rows. Queries are asked through the prompt templates; the
    canonical phrases are LERF's, as they stand.
    """
    return class_embeddings(encoder, list(queries), templates=prompts), encoder.encode(list(CANONICAL_PHRASES))


def scene_relevancy(features: SceneFeatures, n: int, queries: F32, negatives: F32) -> F32:
    """`relevancy` [N, Q] f32 of a scene's features, by row ranges."""
    parts = [relevancy(features.rows(start, min(n, start + PASS)), queries, negatives) for start in range(0, n, PASS)]
    return np.concatenate(parts).astype(np.float32)
