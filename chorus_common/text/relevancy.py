"""How much a feature is about a text, against phrases that are about nothing in particular.

rel = min_n softmax(s [cos(f, query), cos(f, phrase_n)])_query with s = 10, over canonical phrases n: LERF (Kerr et al.
2023, section 3.3), used alike by LangSplat and GAGS (eval/openclip_encoder.py). The paper's formula has s = 1; its code
(lerf/encoders/openclip_encoder.py), and all that compare with it, s = 10. One half: the query is as near as the nearest
phrase.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import ConfigError
from chorus_common.text import TextEncoder
from chorus_common.text.embedding_file import EmbeddingFile

F32 = NDArray[np.float32]

CANONICAL_PHRASES = ("object", "things", "stuff", "texture")
SHARPNESS = 10.0


def relevancy(features: NDArray[np.floating], queries: F32, phrases: F32) -> NDArray[np.floating]:
    """Relevancy [..., Q] in (0, 1) of unit features [..., E] for unit queries [Q, E] against unit phrases [P, E].

    The smallest of the pairwise softmaxes is the one against the nearest phrase.
    """
    return relevancy_of_cosines(features @ queries.T, features @ phrases.T)


def relevancy_of_cosines(queries: NDArray[np.floating], phrases: NDArray[np.floating]) -> NDArray[np.floating]:
    """Relevancy [..., Q] from cosines of features with queries [..., Q] and with phrases [..., P]."""
    difference = queries - phrases.max(axis=-1, keepdims=True)
    return 1 / (1 + np.exp(-SHARPNESS * difference))


def encode_queries(encoder: TextEncoder, queries: list[str]) -> tuple[F32, F32]:
    """(queries [Q, E], canonical phrases [P, E]) as unit vectors."""
    return encoder.encode(list(queries)), encode_canonical(encoder)


def encode_canonical(encoder: TextEncoder) -> F32:
    """The canonical phrases as unit rows [P, E]. ConfigError for a file of embeddings that lacks one."""
    if isinstance(encoder, EmbeddingFile) and (missing := encoder.missing(CANONICAL_PHRASES)):
        raise ConfigError(
            f"{encoder.path}: lacks the phrases {', '.join(missing)}; a query's relevancy is measured against "
            f"{', '.join(CANONICAL_PHRASES)}: add their vectors"
        )
    return encoder.encode(list(CANONICAL_PHRASES))
