"""How much a scene's features answer a text: chorus_common.text.relevancy for features of any length, some missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chorus_common.text import TextEncoder
from chorus_common.text.known_words import refuse_unknown
from chorus_common.text.relevancy import encode_canonical, relevancy_of_cosines
from chorus_common.text.relevancy import relevancy as relevancy_of_units
from evaluation.features import PASS, AskedFeatures, SceneFeatures
from evaluation.prompts import class_embeddings

F32 = NDArray[np.float32]

#: Above it a Gaussian is more like the query than like what the query is compared with.
HOT = 0.5


def relevancy(features: NDArray[np.floating], queries: F32, negatives: F32) -> NDArray[np.floating]:
    """[N, Q] in (0, 1) of features [N, C] (any length; rows of zeros give 0) and unit rows queries [Q, C], negatives
    [M, C].
    """
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.divide(features, length, out=np.zeros_like(features), where=length > 0)
    return np.where(length > 0, relevancy_of_units(unit, queries, negatives), 0).astype(features.dtype)


def query_embeddings(encoder: TextEncoder, queries: Sequence[str], prompts: str) -> tuple[F32, F32]:
    """(queries [Q, C], canonical phrases [4, C]), unit rows. Queries are asked through the prompt templates; the
    canonical phrases are LERF's, as they stand. ConfigError for a query that the text side knows nothing of.
    """
    refuse_unknown(encoder, queries)
    return class_embeddings(encoder, list(queries), templates=prompts), encode_canonical(encoder)


def scene_relevancy(features: SceneFeatures, n: int, queries: F32, negatives: F32) -> F32:
    """`relevancy` [N, Q] f32 of a scene's features, by row ranges or voxel by voxel."""
    if isinstance(features, AskedFeatures):
        k = len(queries)
        text = np.concatenate([queries, negatives]).astype(np.float32)
        asked = features.ask(text, lambda s: relevancy_of_cosines(s[:, :k], s[:, k:]), cosines=True)
        if asked is not None:
            return asked.astype(np.float32)
    parts = [relevancy(features.rows(start, min(n, start + PASS)), queries, negatives) for start in range(0, n, PASS)]
    return np.concatenate(parts).astype(np.float32)
