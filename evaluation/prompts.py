"""What is asked about a class: prompt templates and synonyms. One table of each; every result names the ones it
used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import ConfigError
from chorus_common.text import TextEncoder
from chorus_common.text.embedding_file import EmbeddingFile

#: Templates by name. A class's embedding is the renormalised mean over them (CLIP, Radford et al. 2021, section 3.1.4).
TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "scenesplat": ("this is a {}",),  # SceneSplat scripts/encode_labels.py: one prompt, no ensembling
    "rooms": (
        "{}",
        "a {}",
        "a photo of a {}",
        "a {} in a room",
        "a rendering of a {} in a scene",
        "this is a {}",
        "there is a {} in the scene",
    ),
}

#: Other names of a class, used only where a task is told to (`--synonyms`): published numbers use none.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "bathtub": ("bath",),
    "board": ("whiteboard", "blackboard"),
    "bookcase": ("bookshelf", "shelves"),
    "bookshelf": ("bookcase", "shelves"),
    "cabinet": ("cupboard",),
    "counter": ("kitchen counter", "countertop"),
    "curtain": ("drapes",),
    "desk": ("writing desk", "office desk"),
    "other furniture": ("furniture",),
    "picture": ("painting", "poster"),
    "refrigerator": ("fridge",),
    "sofa": ("couch",),
    "toilet": ("toilet seat",),
    "window": ("window pane",),
}


def prompts_for(encoder: TextEncoder, templates: str) -> str:
    """The set of templates that `encoder` is asked through: `templates`, or "plain" for vectors of a file, which were
    made with whatever prompts their maker chose. Raises ConfigError for an unknown set.
    """
    if templates not in TEMPLATES:
        raise ConfigError(f"unknown prompts '{templates}'; known: {', '.join(TEMPLATES)}")
    return "plain" if isinstance(encoder, EmbeddingFile) else templates


def class_embeddings(
    encoder: TextEncoder, class_names: Sequence[str], *, templates: str = "rooms", synonyms: bool = False
) -> NDArray[np.float32]:
    """Unit rows [K, C] f32: per class the renormalised mean over `prompts_for` (and synonyms, where asked for).

    Raises ConfigError for an unknown set of templates.
    """
    templates = prompts_for(encoder, templates)
    texts: list[str] = []
    owner: list[int] = []
    for k, name in enumerate(class_names):
        for alias in (name, *(SYNONYMS.get(name, ()) if synonyms else ())):
            texts += [template.format(alias) for template in TEMPLATES[templates]]
            owner += [k] * len(TEMPLATES[templates])
    sums = np.zeros((len(class_names), encoder.channels), dtype=np.float64)
    np.add.at(sums, np.array(owner), encoder.encode(texts).astype(np.float64))
    return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
