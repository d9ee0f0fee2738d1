"""The text side of text-aligned teachers: encoders, relevancy, the open_clip model that both sides share."""

from chorus_common.text.encoders import (
    EMBEDDED_TEXT_CHANNELS,
    EMBEDDED_TEXT_SPEC,
    EMBEDDED_TEXT_WEIGHTS,
    EmbeddedTextEncoder,
    HashedTextNetwork,
    TextEncoder,
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
    "load_text_encoder",
    "read_pair",
    "text_features",
]
