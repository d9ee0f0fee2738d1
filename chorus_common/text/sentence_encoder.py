"""Sentence vectors of MiniLM (Wang et al. 2020) and other small BERTs of sentence-transformers, in plain torch.

The network is BERT's encoder; a sentence's vector is the mean of its tokens' last states, scaled to length one (Reimers
& Gurevych 2019). Sizes are read off the weights; the width of a head is BERT's choice of twelve heads for widths of 384
and 768.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from chorus_common.runtime.errors import WeightsError
from chorus_common.runtime.packaged_weights import packaged_file
from chorus_common.runtime.weight_files import load_strictly, read_state_dict, weights_fingerprint
from chorus_common.text.wordpiece import WordPiece, read_wordpiece

#: Tokens of a text beyond which it is cut, as all-MiniLM-L6-v2's tokenizer does.
LONGEST = 128

#: Texts per pass.
BATCH = 64

HEADS = 12
ADVICE = "run: make real-teachers, and write minilm"


class Bert(nn.Module):
    """BERT's encoder with the names of its published state dicts (without the pooler)."""

    def __init__(
        self, vocabulary: int, width: int, positions: int, layers: int, hidden: int, heads: int = HEADS
    ) -> None:
        super().__init__()
        self.width = width
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(vocabulary, width),
                "position_embeddings": nn.Embedding(positions, width),
                "token_type_embeddings": nn.Embedding(2, width),
                "LayerNorm": nn.LayerNorm(width, eps=1e-12),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(BertLayer(width, hidden, heads) for _ in range(layers))})

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        """Last states [B, L, width] of token ids [B, L] i64; `real` [B, L] bool is False where there is padding."""
        places = torch.arange(ids.shape[1], device=ids.device)
        e: Any = self.embeddings
        x = e["word_embeddings"](ids) + e["position_embeddings"](places) + e["token_type_embeddings"].weight[0]
        x = e["LayerNorm"](x)
        for layer in cast(nn.ModuleList, self.encoder["layer"]):
            x = layer(x, real)
        return x


class BertLayer(nn.Module):
    """Attention and MLP, each followed by its residual and a layer norm."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        projections = {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict(projections),
                "output": nn.ModuleDict(
                    {"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)}
                ),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        attention = self.attention["self"]
        q, k, v = (
            attention[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # type: ignore[index]
            for name in ("query", "key", "value")
        )  # [B, heads, L, width / heads]
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None])
        after = self.attention["output"]
        x = after["LayerNorm"](x + after["dense"](seen.transpose(1, 2).flatten(2)))  # type: ignore[index]
        y = self.output["dense"](F.gelu(self.intermediate["dense"](x)))
        out: Tensor = self.output["LayerNorm"](x + y)
        return out


class SentenceEncoder:
    """Texts -> unit vectors [K, width] f32, on the CPU in fp32. `fingerprint`: of the weights."""

    def __init__(self, network: Bert, tokenizer: WordPiece) -> None:
        self.network, self._tokenizer = network.eval().requires_grad_(False), tokenizer
        self.channels = network.width
        self.fingerprint = weights_fingerprint(network)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Unit rows [K, channels]; a text's vector does not depend on the others."""
        parts = [self._encode(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
        return np.concatenate([np.zeros((0, self.channels), dtype=np.float32), *parts])

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        rows = [self._tokenizer.encode(text, LONGEST) for text in texts]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])  # [K, L]
        real = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
        states = self.network(ids, real)
        mean = (states * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
        return F.normalize(mean, dim=-1).numpy()


def load_sentence_encoder(text: str) -> SentenceEncoder:
    """The encoder that `text` names: "minilm" (make real-teachers), or a folder of sentence-transformers with
    model.safetensors and tokenizer.json.

    Raises WeightsError where something is missing or does not fit.
    """
    inside = Path(text).expanduser()
    names = (str(inside / "model.safetensors"), str(inside / "tokenizer.json")) if inside.is_dir() else (text, text)
    weights, vocabulary = (packaged_file(n, role, ADVICE) for n, role in zip(names, ("sentence encoder", "tokenizer")))
    state = {name: value for name, value in read_state_dict(weights).items() if not name.startswith("pooler.")}
    state.pop("embeddings.position_ids", None)
    try:
        words, width = state["embeddings.word_embeddings.weight"].shape
        positions = len(state["embeddings.position_embeddings.weight"])
        hidden = len(state["encoder.layer.0.intermediate.dense.bias"])
    except KeyError as error:
        raise WeightsError(f"{weights}: no BERT: lacks tensor {error.args[0]}") from None
    layers = len({name.split(".")[2] for name in state if name.startswith("encoder.layer.")})
    network = Bert(words, width, positions, layers, hidden)
    load_strictly(network, {name: value.float() for name, value in state.items()}, weights, "BERT")
    return SentenceEncoder(network, read_wordpiece(vocabulary))
