"""A field on disk: one folder that is usable with the cache it was trained on.

model.safetensors   vectors [N, channels] in the cache's row order, decoder.*, granularity.*
field.json          FieldCard: what it is and what it was trained on
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from safetensors.torch import save as save_tensors

from chorus_common.cache import EmbeddingSource
from chorus_common.runtime.atomic import write_bytes_atomically, write_text_atomically
from chorus_common.runtime.config import Config, dump_config
from chorus_common.runtime.errors import CacheError, ConfigError, WeightsError
from stage2_distill.encoder.weight_files import read_safetensors
from stage2_distill.fields.model import GranularityField
from stage2_distill.fields.settings import FieldConfig

CARD, WEIGHTS = "field.json", "model.safetensors"


class FieldCard(Config):
    """Contents of field.json.

    Attributes:
        dataset, scene_id, fingerprint: the cache it was trained on.
        masks: mask teacher; source: whose space the features lie in.
        levels: of the mask teacher. n_gaussians, width: [N] and the teacher's width.
        views: names of the views it was trained on; a query elsewhere is a held-out one.
        steps: optimiser steps done.
    """

    format: Literal["chorus-field"] = "chorus-field"
    schema_version: Literal[1] = 1
    config: FieldConfig
    dataset: str
    scene_id: str
    fingerprint: str
    masks: str
    source: EmbeddingSource
    levels: tuple[str, ...]
    n_gaussians: int
    width: int
    views: tuple[str, ...]
    steps: int

    def check_cache(self, fingerprint: str, path: object) -> None:
        """Raise CacheError where a cache is not the one that the field belongs to: its rows would mean others."""
        if fingerprint != self.fingerprint:
            raise CacheError(
                f"{path}: is not the cache that the field of scene {self.scene_id} was trained on "
                f"(fingerprint {fingerprint}, not {self.fingerprint}); train the field again"
            )


@dataclass(frozen=True, eq=False)
class SavedField:
    """A field in eval mode, and its card."""

    model: GranularityField
    card: FieldCard


def save_field(model: GranularityField, card: FieldCard, folder: Path) -> None:
    """Write the folder; the card goes last, so that a field without one is an unfinished one."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_bytes_atomically(folder / WEIGHTS, save_tensors(tensors))
    write_text_atomically(folder / CARD, dump_config(card))


def load_field(folder: Path, device: torch.device | str = "cpu") -> SavedField:
    """Read the folder. Raises ConfigError where it holds no field, WeightsError where its weights do not fit."""
    try:
        card = FieldCard.model_validate_json((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no field here; make one with chorus-stage2 field train") from None
    except (ValidationError, UnicodeDecodeError) as error:
        raise ConfigError(f"{folder / CARD}: damaged ({str(error).splitlines()[0]}); train the field again") from None
    model = GranularityField(card.config, card.n_gaussians, card.levels, card.width)
    try:
        model.load_state_dict(read_safetensors(folder / WEIGHTS))
    except RuntimeError as error:
        raise WeightsError(
            f"{folder / WEIGHTS}: does not fit {CARD} ({str(error).splitlines()[0]}); train the field again"
        ) from None
    return SavedField(model.to(device).eval(), card)
