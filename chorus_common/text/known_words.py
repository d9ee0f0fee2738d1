"""Queries that a text side knows nothing of: a network answers them as confidently as any other, so they are refused.

The shipped embedded text side was trained on English words in ASCII letters; a hashed sub-word that its training never
met kept a gate of exactly 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from chorus_common.runtime.errors import ConfigError
from chorus_common.text.encoders import EmbeddedTextEncoder, TextEncoder, text_features

#: Share of a word's hashed sub-words that the training must have met. Some are met by accident: buckets are shared.
_KNOWN_SHARE = 0.5


def refuse_unknown(encoder: TextEncoder, queries: Sequence[str], what: str = "query") -> None:
    """Raise ConfigError, one line, for a text that the embedded text side knows nothing of; other sides take all.

    what: a text is called.
    """
    for query in unknown(encoder, queries):
        strange = sorted({c for c in query if c.isalpha() and not c.isascii()})
        why = f"the letters {' '.join(strange)}" if strange else "any of its words"
        raise ConfigError(
            f"{what} '{query}': the embedded text side does not know {why}; it knows English names of indoor things"
        )


def unknown(encoder: TextEncoder, texts: Sequence[str]) -> list[str]:
    """Those of `texts` that the embedded text side knows nothing of; none with another side."""
    if not isinstance(encoder, EmbeddedTextEncoder):
        return []
    return [
        text
        for text in texts
        if any(c.isalpha() and not c.isascii() for c in text) or not any(_knows(encoder, w) for w in text.split())
    ]


def _knows(encoder: EmbeddedTextEncoder, word: str) -> bool:
    network = encoder.network
    buckets = text_features(word, network.n_buckets)
    trained = [bool(network.gate.weight[bucket].item() != 0) for bucket in buckets]
    return bool(trained) and sum(trained) >= _KNOWN_SHARE * len(trained)
