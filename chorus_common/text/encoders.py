"""Text encoders: class names and free queries -> unit vectors in the space of a text-aligned teacher.

`load_text_encoder("embedded:text")` needs no download: it is the text side of the embedded teacher whose picture side
lives in stage1_render_teachers/teachers/text_aligned.py; both come from one run of train_text_aligned.py beside it.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from chorus_common.runtime.errors import ConfigError, WeightsError

EMBEDDED_TEXT_SPEC = "embedded:text"
EMBEDDED_TEXT_WEIGHTS = Path(__file__).parent / "weights" / "embedded_text.safetensors"
EMBEDDED_TEXT_CHANNELS = 64


class TextEncoder(Protocol):
    """Encodes texts into the space of the text-aligned teacher named by `spec`.

    `pair`: what the teacher's fingerprint begins with when both sides come from one training; "" where nothing tells.
    """

    spec: str
    channels: int
    pair: str

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Unit rows [K, channels] f32, one per text, canonicalised as the teacher's own text side wants it."""
        ...


def text_features(text: str, n_buckets: int) -> list[int]:
    """Hashed features of a text: every word and its character 3- and 4-grams, CRC-32 mod n_buckets.

    As in fastText (Bojanowski et al. 2017): sub-words let related words ("bookcase", "bookshelf", "bookshelves") share
    weights. Case and punctuation are ignored.
    """
    features = []
    for word in re.findall(r"[a-z0-9]+", text.lower()):
        marked = f"<{word}>"
        grams = {marked} | {marked[i : i + n] for n in (3, 4) for i in range(len(marked) - n + 1)}
        features += [zlib.crc32(gram.encode()) % n_buckets for gram in sorted(grams)]
    return features


class HashedTextNetwork(nn.Module):
    """Bag of hashed sub-words -> gated mean -> residual MLP -> unit vector.

    The gate (one learned scalar per bucket) lets the network ignore the words of a prompt template.
    """

    def __init__(self, channels: int = EMBEDDED_TEXT_CHANNELS, n_buckets: int = 2048) -> None:
        super().__init__()
        self.n_buckets = n_buckets
        self.embedding = nn.Embedding(n_buckets, channels)
        self.gate = nn.Embedding(n_buckets, 1)
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, 2 * channels)
        self.fc2 = nn.Linear(2 * channels, channels)
        nn.init.normal_(self.embedding.weight, std=0.1)  # the output is normalised: a small start learns faster
        nn.init.zeros_(self.gate.weight)

    def forward(self, texts: list[str]) -> Tensor:
        """Unit rows [K, channels]. An empty text becomes the network's answer to no evidence at all."""
        rows = [text_features(text, self.n_buckets) or [0] for text in texts]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])  # [K, L]
        mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])  # [K, L]
        ids, mask = ids.to(self.fc1.weight.device), mask.to(self.fc1.weight.device)
        weight = self.gate(ids).squeeze(-1).masked_fill(~mask, float("-inf")).softmax(dim=1)  # [K, L]
        bag = (weight[..., None] * self.embedding(ids)).sum(dim=1)  # [K, C]
        bag = bag + self.fc2(F.gelu(self.fc1(self.norm(bag))))
        return F.normalize(bag, dim=-1)


class EmbeddedTextEncoder:
    """The shipped text side of the embedded text-aligned teacher."""

    spec = EMBEDDED_TEXT_SPEC
    channels = EMBEDDED_TEXT_CHANNELS

    def __init__(self, weights: Path = EMBEDDED_TEXT_WEIGHTS) -> None:
        if not weights.is_file():
            raise WeightsError(
                f"{weights}: weights of the embedded text encoder are missing; reinstall, "
                "or make them with python -m stage1_render_teachers.teachers.train_text_aligned"
            )
        self.pair = read_pair(weights)
        self.network = HashedTextNetwork()
        self.network.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
        self.network.eval()

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """See `TextEncoder.encode`."""
        return self.network(texts).numpy() if texts else np.zeros((0, self.channels), dtype=np.float32)


def read_pair(weights: Path) -> str:
    """The mark that the two weight files of one training share. Raises WeightsError for a file without it."""
    with safe_open(weights, framework="pt") as handle:
        pair = (handle.metadata() or {}).get("pair", "")
    if not pair:
        raise WeightsError(f"{weights}: does not say which training it comes from; reinstall")
    return pair


def has_text_side(spec: str) -> bool:
    """Whether `load_text_encoder` knows the family of teacher `spec`; its weights are not looked for."""
    return spec == EMBEDDED_TEXT_SPEC or spec.startswith(("open_clip:", "conse:", "file:"))


def load_text_encoder(spec: str) -> TextEncoder:
    """The text encoder of the text-aligned teacher `spec`. Raises ConfigError for a teacher without a text side.

    The `spec` of the encoder says what was loaded: where only transformers' copy of an open_clip model's weights is in
    the hub's cache, that copy answers.

    >>> load_text_encoder("embedded:text").encode(["a chair", "a table"]).shape
    (2, 64)
    """
    if spec == EMBEDDED_TEXT_SPEC:
        return EmbeddedTextEncoder()
    if spec.startswith("open_clip:"):
        from chorus_common.text.transformers_text import here_instead

        if (other := here_instead(spec)) is not None:
            return load_text_encoder(other)
        from chorus_common.text.open_clip_text import load_open_clip_text  # seconds of imports that others need not pay

        return load_open_clip_text(spec)
    if spec.startswith("transformers:"):
        from chorus_common.text.transformers_text import TransformersTextEncoder

        return TransformersTextEncoder(spec)
    if spec.startswith("conse:"):
        from chorus_common.text.conse_text import ConseTextEncoder

        return ConseTextEncoder(spec)
    if spec.startswith("file:"):
        from chorus_common.text.embedding_file import EmbeddingFile

        return EmbeddingFile(Path(spec.removeprefix("file:")))
    raise ConfigError(
        f"teacher '{spec}' has no text side; known: {EMBEDDED_TEXT_SPEC}, open_clip:MODEL:WEIGHTS, "
        "transformers:MODEL, conse:BACKBONE:TEXT, file:PATH"
    )


def is_text_side(text: str, teacher: str) -> bool:
    """Whether `text` may name the text side of teacher `teacher` (specs): the same, the same open_clip model with
    weights from elsewhere, or transformers' side of a SigLIP model. For the last the user's word is taken.
    """
    same = text == teacher
    model, other = (spec.split(":")[1] if spec.startswith("open_clip:") else "" for spec in (teacher, text))
    return same or (model != "" and (model == other or (text.startswith("transformers:") and "SigLIP" in model)))
