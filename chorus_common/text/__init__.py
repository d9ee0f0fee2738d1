"""The text side of text-aligned teachers: encoders, relevancy, the open_clip model that both sides share."""

from typing import TYPE_CHECKING

from chorus_common.runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from chorus_common.text.encoders import (
        EMBEDDED_TEXT_CHANNELS,
        EMBEDDED_TEXT_SPEC,
        EMBEDDED_TEXT_WEIGHTS,
        EmbeddedTextEncoder,
        HashedTextNetwork,
        TextEncoder,
        has_text_side,
        load_text_encoder,
        read_pair,
        text_features,
    )

__all__ = [
    "EMBEDDED_TEXT_CHANNELS",
    "EMBEDDED_TEXT_SPEC",
    "EMBEDDED_TEXT_WEIGHTS",
    "EmbeddedTextEncoder",
    "HashedTextNetwork",
    "TextEncoder",
    "has_text_side",
    "load_text_encoder",
    "read_pair",
    "text_features",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "chorus_common.text.encoders": (
            "EMBEDDED_TEXT_CHANNELS",
            "EMBEDDED_TEXT_SPEC",
            "EMBEDDED_TEXT_WEIGHTS",
            "EmbeddedTextEncoder",
            "HashedTextNetwork",
            "TextEncoder",
            "has_text_side",
            "load_text_encoder",
            "read_pair",
            "text_features",
        ),
    },
)
