from __future__ import annotations

import numpy as np
import pytest

from chorus_common.labels import LABEL_SPACES
from chorus_common.runtime.errors import ConfigError
from evaluation.prompts import SYNONYMS, TEMPLATES, class_embeddings
from tests.evaluation.rooms import WordVectors


def test_mean_over_templates_is_renormalised() -> None:
    encoder = WordVectors()
    for name, templates in TEMPLATES.items():
        rows = encoder.encode([t.format("sofa") for t in templates])
        expected = rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0))
        np.testing.assert_allclose(class_embeddings(encoder, ["chair", "sofa"], templates=name)[1], expected, atol=1e-6)


def test_synonyms_only_where_asked_for() -> None:
    encoder = WordVectors()
    plain = class_embeddings(encoder, ["sofa", "chair"], templates="plain")
    with_synonyms = class_embeddings(encoder, ["sofa", "chair"], templates="plain", synonyms=True)
    np.testing.assert_allclose(plain[0], encoder.encode(["sofa"])[0], atol=1e-6)
    both = encoder.encode(["sofa", "couch"]).sum(axis=0)
    np.testing.assert_allclose(with_synonyms[0], both / np.linalg.norm(both), atol=1e-6)
    np.testing.assert_array_equal(plain[1], with_synonyms[1])


def test_synonyms_belong_to_known_classes() -> None:
    known = {name for names in LABEL_SPACES.values() for name in names}
    assert set(SYNONYMS) <= known


def test_unknown_prompts_are_named() -> None:
    with pytest.raises(ConfigError, match="unknown prompts 'clip'; known: plain"):
        class_embeddings(WordVectors(), ["chair"], templates="clip")
