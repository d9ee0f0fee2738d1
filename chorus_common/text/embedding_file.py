"""`file:PATH`: the text side as a file of vectors that were made elsewhere, phrase -> vector; no text network is run.

.npz and .safetensors: one array [C] per phrase, named by it. .pt and .pth: a dictionary phrase -> tensor [C].
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from chorus_common.runtime.errors import ConfigError, WeightsError, one_line

FAMILY = "file:"
F32 = NDArray[np.float32]


class EmbeddingFile:
    """Vectors of phrases, normalised to length 1. Phrases are found whatever their case and outer blanks.

    Raises WeightsError for a file that is missing, of another kind, or holds no vectors of one width.
    """

    pair = ""

    def __init__(self, path: Path) -> None:
        self.spec = f"{FAMILY}{path}"
        self.path = path
        self._vectors: dict[str, NDArray[np.floating]] = {
            _key(phrase): vector for phrase, vector in _read(path).items()
        }
        widths = {vector.shape for vector in self._vectors.values()}
        if len(widths) != 1 or len(next(iter(widths))) != 1:
            raise WeightsError(f"{path}: expected one vector [C] per phrase, all of one width")
        self.channels = next(iter(widths))[0]
        for phrase, vector in self._vectors.items():
            length = float(np.linalg.norm(vector))
            if not np.isfinite(length) or length == 0:
                raise WeightsError(f"{path}: the vector of '{phrase}' has no direction")
            self._vectors[phrase] = (vector / length).astype(np.float32)

    def encode(self, texts: list[str]) -> F32:
        """Unit rows [K, channels]. ConfigError for a phrase that the file does not hold."""
        rows = [self._vector(text) for text in texts]
        return np.stack(rows).astype(np.float32) if rows else np.zeros((0, self.channels), dtype=np.float32)

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Those of `texts` that the file has no vector of."""
        return [text for text in texts if _key(text) not in self._vectors]

    def holds_any(self, texts: Sequence[str]) -> bool:
        """Whether the file has a vector of one of `texts`."""
        return len(self.missing(texts)) < len(texts)

    def _vector(self, text: str) -> NDArray[np.floating]:
        key = _key(text)
        if key not in self._vectors:
            near = difflib.get_close_matches(key, self._vectors, n=1, cutoff=0.0)
            raise ConfigError(
                f"{self.path}: has no vector of '{text}' ({len(self._vectors)} phrases); did you mean '{near[0]}'?"
            )
        return self._vectors[key]


def _key(phrase: str) -> str:
    return " ".join(phrase.lower().split())


def _read(path: Path) -> dict[str, NDArray[np.float64]]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of text embeddings")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: np.asarray(arrays[name], dtype=np.float64) for name in arrays.files}
        elif path.suffix == ".safetensors":
            found = {name: value.double().numpy() for name, value in load_file(path).items()}
        elif path.suffix in (".pt", ".pth"):
            content = torch.load(path, map_location="cpu", weights_only=True)
            found = {str(name): torch.as_tensor(value).double().numpy() for name, value in content.items()}
        else:
            raise WeightsError(f"{path}: text embeddings are a .npz, .safetensors or .pt file")
    except WeightsError:
        raise
    except Exception as error:  # three formats, each with its own kinds of error, one remedy
        raise WeightsError(f"{path}: not a file of text embeddings ({one_line(error)[:120]})") from None
    if not found:
        raise WeightsError(f"{path}: holds no text embeddings")
    return found
