"""WordPiece and BERT against other implementations of the same rules; the real MiniLM where it is installed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from chorus_common.runtime.errors import ConfigError, WeightsError
from chorus_common.runtime.packaged_weights import folder
from chorus_common.text import load_text_encoder
from chorus_common.text.conse_text import class_names, name_vectors, parse_conse
from chorus_common.text.sentence_encoder import Bert, SentenceEncoder, load_sentence_encoder
from chorus_common.text.wordpiece import WordPiece, read_wordpiece, split_words
from tests.stage1.real_weights import needs_real_teachers

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "a",
    "sofa",
    "so",
    "##fa",
    "##s",
    "un",
    "##aff",
    "##able",
    ",",
    "!",
    "$",
    "cafe",
    "床",
]
VOCABULARY = {piece: number for number, piece in enumerate(PIECES)}


def pieces(text: str, longest: int = 64) -> list[str]:
    return [PIECES[i] for i in WordPiece(VOCABULARY).encode(text, longest)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a sofa", ["a", "sofa"]),
        ("Sofas, SOFA!", ["sofa", "##s", ",", "sofa", "!"]),
        ("unaffable", ["un", "##aff", "##able"]),
        ("Café $", ["cafe", "$"]),
        ("a\tzebra\x00\n", ["a", "[UNK]"]),
        ("床床", ["床", "床"]),
        ("s" * 101, ["[UNK]"]),
        ("", []),
    ],
)
def test_pieces_are_berts(text: str, expected: list[str]) -> None:
    assert pieces(text) == ["[CLS]", *expected, "[SEP]"]


def test_long_texts_are_cut_before_the_last_mark() -> None:
    assert pieces("a a a a a", 4) == ["[CLS]", "a", "a", "[SEP]"]


@given(st.text())
def test_words_hold_no_space_and_are_stable(text: str) -> None:
    words = split_words(text)
    assert all(words)
    assert split_words(" ".join(words)) == words


def random_bert(layers: int = 2, seed: int = 0) -> Bert:
    torch.manual_seed(seed)
    network = Bert(len(PIECES), 24, 16, layers, 48)
    for value in network.parameters():
        value.data = torch.randn_like(value) * 0.3
    return network.eval()


def twin(network: Bert, ids: list[int]) -> np.ndarray:
    """The mean of the last states by torch's own encoder layers, one text at a time, without padding."""
    e = network.embeddings
    x = (
        e["word_embeddings"].weight[ids]
        + e["position_embeddings"].weight[: len(ids)]
        + e["token_type_embeddings"].weight[0]
    )  # type: ignore[union-attr, index]
    x = e["LayerNorm"](x)[None]  # type: ignore[operator]
    for layer in network.encoder["layer"]:  # type: ignore[union-attr]
        theirs = nn.TransformerEncoderLayer(
            24, 12, 48, dropout=0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
        )
        own = layer.attention["self"]
        state = {
            "self_attn.in_proj_weight": torch.cat([own[k].weight for k in ("query", "key", "value")]),
            "self_attn.in_proj_bias": torch.cat([own[k].bias for k in ("query", "key", "value")]),
        }
        for name, part in {
            "self_attn.out_proj": layer.attention["output"]["dense"], "norm1": layer.attention["output"]["LayerNorm"],
            "linear1": layer.intermediate["dense"], "linear2": layer.output["dense"],
            "norm2": layer.output["LayerNorm"],
        }.items():  # fmt: skip
            state |= {f"{name}.weight": part.weight, f"{name}.bias": part.bias}
        theirs.load_state_dict(state)
        x = theirs.eval()(x)
    mean = x[0].mean(dim=0)
    return (mean / mean.norm()).detach().numpy()


def save(folder: Path, network: Bert) -> None:
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file({**state, "pooler.dense.weight": torch.zeros(24, 24)}, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", "vocab": VOCABULARY}}))


def test_vectors_are_the_mean_of_torchs_own_layers(tmp_path: Path) -> None:
    """Texts of different lengths together: padding changes nothing."""
    network = random_bert()
    save(tmp_path, network)
    encoder = load_sentence_encoder(str(tmp_path))
    texts = ["a sofa", "unaffable sofas, a sofa!", "a"]
    found = encoder.encode(texts)
    tokenizer = WordPiece(VOCABULARY)
    expected = np.stack([twin(network, tokenizer.encode(text, 64)) for text in texts])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert encoder.encode([]).shape == (0, 24)
    assert encoder.fingerprint != SentenceEncoder(random_bert(seed=1), tokenizer).fingerprint


def test_what_is_no_sentence_encoder_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        load_sentence_encoder(str(tmp_path / "nothing"))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"no BERT: lacks tensor embeddings\.word_embeddings"):
        load_sentence_encoder(str(tmp_path))
    with pytest.raises(WeightsError, match=r"no tokenizer\.json with a WordPiece vocabulary"):
        read_wordpiece(tmp_path / "tokenizer.json")
    with pytest.raises(ConfigError, match="expected conse:BACKBONE:TEXT"):
        parse_conse("conse:lite0")


def test_class_names_are_imagenets() -> None:
    names = class_names()
    assert len(names) == 1000
    assert names[831] == ["studio couch", "day bed"]
    assert names[281] == ["tabby", "tabby cat"]


def test_a_class_is_the_mean_of_its_synonyms() -> None:
    encoder = SentenceEncoder(random_bert(), WordPiece(VOCABULARY))
    vectors = name_vectors(encoder)
    assert vectors.shape == (1000, 24)
    np.testing.assert_allclose(vectors[831], encoder.encode(["studio couch", "day bed"]).mean(axis=0), atol=1e-6)


@needs_real_teachers
def test_real_minilm_knows_what_sofas_are() -> None:
    tokenizer = read_wordpiece(folder() / "minilm" / "tokenizer.json")
    expected = [101, 1037, 6302, 1997, 7592, 2088, 999, 102]
    assert tokenizer.encode("A photo of Hello, wörld!".replace(",", ""), 128) == expected
    encoder = load_sentence_encoder("minilm")
    sofa, couch, toilet = encoder.encode(["sofa", "couch", "toilet"])
    assert sofa @ couch > 0.7 > 0.5 > sofa @ toilet
    text = load_text_encoder("conse:lite0:minilm")
    vectors = text.encode(["a place to sit", "chair", "window", "refrigerator"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors[0] @ vectors[1:].T).argmax() == 0
