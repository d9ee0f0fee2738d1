"""`conse:BACKBONE:TEXT`: both sides of ConSE (Norouzi et al. 2014) live in the space of a sentence encoder.

A picture's vector is the mean of the names' vectors of the classes that a classifier sees in it, weighted by how sure
it is. A query's vector is the sentence encoder's own. All vectors are measured from the mean of the class names: what
all names share ("it is a thing") tells nothing apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.devices import split_precision
from chorus_common.runtime.errors import ConfigError
from chorus_common.text.sentence_encoder import SentenceEncoder, load_sentence_encoder

FAMILY = "conse:"
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class ConseSpec:
    """The parts of "conse:BACKBONE:TEXT[@PRECISION]"."""

    spec: str
    backbone: str
    text: str
    precision: str


def parse_conse(spec: str) -> ConseSpec:
    """Raises ConfigError for a spec without one of the parts."""
    plain, precision = split_precision(spec.removeprefix(FAMILY))
    backbone, _, text = plain.partition(":")
    if not backbone or not text:
        raise ConfigError(f"{spec}: expected conse:BACKBONE:TEXT, e.g. conse:lite0:minilm (after make real-teachers)")
    return ConseSpec(spec, backbone, text, precision)


def class_names() -> list[list[str]]:
    """The synonyms of ImageNet's 1,000 classes in the order of every classifier's outputs, as timm lists them."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return [[name.strip() for name in info.index_to_description(i).split(",")] for i in range(info.num_classes())]


def name_vectors(encoder: SentenceEncoder) -> F32:
    """One vector [1000, C] per class: the mean of its synonyms' unit vectors."""
    names = class_names()
    flat = encoder.encode([name for synonyms in names for name in synonyms])
    starts = np.cumsum([0, *(len(synonyms) for synonyms in names[:-1])])
    sums = np.add.reduceat(flat, starts, axis=0)
    means: F32 = (sums / np.array([[len(synonyms)] for synonyms in names], dtype=np.float32)).astype(np.float32)
    return means


class ConseTextEncoder:
    """The text side (`TextEncoder`): unit vectors from the mean of the class names to the text."""

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self._encoder = load_sentence_encoder(parse_conse(spec).text)
        self.channels = self._encoder.channels
        self.pair = self._encoder.fingerprint
        self._middle = name_vectors(self._encoder).mean(axis=0)

    def encode(self, texts: list[str]) -> F32:
        """See `TextEncoder.encode`."""
        away = self._encoder.encode(texts) - self._middle
        unit: F32 = away / np.linalg.norm(away, axis=1, keepdims=True)
        return unit
