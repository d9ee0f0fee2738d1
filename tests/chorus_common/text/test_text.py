from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_common.labels import SCANNET20
from chorus_common.runtime.errors import ConfigError, WeightsError
from chorus_common.text import (
    EMBEDDED_TEXT_WEIGHTS,
    EmbeddedTextEncoder,
    load_text_encoder,
    text_features,
)


@pytest.fixture(scope="module")
def encoder() -> EmbeddedTextEncoder:
    return EmbeddedTextEncoder()


@given(st.text(max_size=40), st.integers(1, 5000))
def test_features_are_buckets_and_ignore_case_and_punctuation(text: str, n: int) -> None:
    features = text_features(text, n)
    assert all(0 <= f < n for f in features)
    ascii_text = "".join(c for c in text if c.isascii())
    assert text_features(ascii_text.upper(), n) == text_features(f"  {ascii_text.lower()}!?", n)


def test_related_words_share_features() -> None:
    shelf, case, tub = (set(text_features(w, 2**20)) for w in ("bookshelf", "bookcase", "toilet"))
    assert len(shelf & case) >= 4
    assert not shelf & tub


def test_rows_are_unit_and_do_not_depend_on_the_batch(encoder: EmbeddedTextEncoder) -> None:
    texts = ["chair", "a photo of a refrigerator", "", "zzz 12"]
    together = encoder.encode(texts)
    assert together.shape == (4, encoder.channels)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together, np.concatenate([encoder.encode([t]) for t in texts]), atol=1e-5)
    assert encoder.encode([]).shape == (0, encoder.channels)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("couch", "sofa"), ("a photo of a fridge", "refrigerator"), ("bookcase", "bookshelf"),
        ("office chair", "chair"),
        ("THE PAINTING", "picture"), ("there is a cupboard in the scene", "cabinet"), ("bath tub", "bathtub"),
    ],
)  # fmt: skip
def test_synonyms_and_templates_find_their_class(encoder: EmbeddedTextEncoder, text: str, name: str) -> None:
    similarity = encoder.encode([text])[0] @ encoder.encode(list(SCANNET20)).T
    assert SCANNET20[int(similarity.argmax())] == name


def test_class_names_stay_apart(encoder: EmbeddedTextEncoder) -> None:
    rows = encoder.encode(list(SCANNET20))
    similarity = rows @ rows.T - 2 * np.eye(len(rows))
    assert similarity.max() < 0.8


def test_unknown_teachers_and_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'embedded:dense' has no text side"):
        load_text_encoder("embedded:dense")
    with pytest.raises(WeightsError, match=r"none\.safetensors: .*reinstall"):
        EmbeddedTextEncoder(tmp_path / "none.safetensors")


def test_both_sides_ship_in_two_megabytes() -> None:
    from_package = Path(EMBEDDED_TEXT_WEIGHTS).parents[3]
    picture = from_package / "stage1_render_teachers" / "teachers" / "weights" / "text_aligned.safetensors"
    assert EMBEDDED_TEXT_WEIGHTS.stat().st_size + picture.stat().st_size <= 2_000_000
