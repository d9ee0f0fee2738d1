"""Text embeddings from a file, and queries that a text side knows nothing of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from chorus_common.runtime.errors import ConfigError, WeightsError
from chorus_common.text import EmbeddedTextEncoder, load_text_encoder
from chorus_common.text.embedding_file import EmbeddingFile
from chorus_common.text.known_words import refuse_unknown

VECTORS = {"a chair": np.array([3.0, 4.0, 0.0]), "Table": np.array([0.0, 0.0, 2.0])}


@pytest.fixture(params=[".npz", ".safetensors", ".pt"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"phrases{request.param}"
    tensors = {phrase: torch.from_numpy(vector) for phrase, vector in VECTORS.items()}
    if path.suffix == ".npz":
        np.savez(path, **VECTORS)  # type: ignore[arg-type]
    elif path.suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    return path


def test_phrases_are_found_in_every_format_and_are_unit_rows(file: Path) -> None:
    encoder = load_text_encoder(f"file:{file}")
    assert encoder.spec == f"file:{file}"
    np.testing.assert_allclose(encoder.encode(["table", "A  chair"]), [[0, 0, 1], [0.6, 0.8, 0]], atol=1e-6)
    assert encoder.encode([]).shape == (0, 3)


def test_a_phrase_that_is_not_there_is_refused_with_the_nearest(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no vector of 'a chiar'.*did you mean 'a chair'"):
        EmbeddingFile(file).encode(["a chiar"])


@pytest.mark.parametrize(
    ("name", "vectors", "message"),
    [
        ("mixed.npz", {"a": np.ones(3), "b": np.ones(4)}, "all of one width"),
        ("zero.npz", {"a": np.zeros(3)}, "no direction"),
        ("empty.npz", {}, "holds no text embeddings"),
        ("words.txt", None, "a .npz, .safetensors or .pt file"),
        ("broken.npz", None, "not a file of text embeddings"),
    ],
)
def test_wrong_files_are_one_line(
    tmp_path: Path, name: str, vectors: dict[str, np.ndarray] | None, message: str
) -> None:
    path = tmp_path / name
    if vectors is None:
        path.write_text("nothing")
    else:
        np.savez(path, **vectors)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=message) as error:
        EmbeddingFile(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("query", ["кресло", "椅子", "fenêtre", "xqzv", "Stuhl", "silla", "?!"])
def test_queries_that_the_embedded_side_does_not_know_are_refused(query: str) -> None:
    with pytest.raises(ConfigError, match="the embedded text side does not know"):
        refuse_unknown(EmbeddedTextEncoder(), [query])


def test_known_queries_pass() -> None:
    refuse_unknown(EmbeddedTextEncoder(), ["chair", "a red chairs", "bookshelves", "the refrigerator", "bath tub"])
