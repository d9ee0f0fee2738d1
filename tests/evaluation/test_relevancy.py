from __future__ import annotations

import numpy as np

from evaluation.relevancy import relevancy


def test_relevancy_is_the_least_pairwise_softmax() -> None:
    """LERF's formula, phrase by phrase."""
    rng = np.random.default_rng(0)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    features, queries, negatives = (
        3 * rng.normal(size=(20, 8)),
        unit(rng.normal(size=(3, 8))),
        unit(rng.normal(size=(4, 8))),
    )
    found = relevancy(features, queries, negatives)
    for i, q in np.ndindex(20, 3):
        f = unit(features[i])
        pairs = [np.exp(10 * f @ queries[q]) / (np.exp(10 * f @ queries[q]) + np.exp(10 * f @ n)) for n in negatives]
        assert abs(found[i, q] - min(pairs)) < 1e-12
    assert (relevancy(np.zeros((1, 8)), queries, negatives) == 0).all()
    np.testing.assert_allclose(relevancy(negatives[:1], negatives[:1], negatives[:1]), 0.5)
