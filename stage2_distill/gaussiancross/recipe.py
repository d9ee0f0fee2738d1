"""The recipe of GaussianCross pretraining: learn by rendering; leaves an ordinary encoder folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stage2_distill.data.order import MODEL, generator
from stage2_distill.encode import encode_scene
from stage2_distill.encoder import load_encoder
from stage2_distill.encoder.model import Encoder
from stage2_distill.engine.loop import Run, RunResult, launch
from stage2_distill.engine.recipe import Loss, Recipe, Validation
from stage2_distill.engine.seeds import model_seed
from stage2_distill.gaussiancross.data import CaptureBatch, CaptureDataset
from stage2_distill.gaussiancross.feature_rank import effective_rank
from stage2_distill.gaussiancross.model import GaussianCross
from stage2_distill.gaussiancross.scenes import CaptureScenes
from stage2_distill.gaussiancross.settings import GaussianCrossConfig
from stage2_distill.gaussiancross.step import step_loss
from stage2_distill.start import make_encoder
from stage2_distill.student import Student, save_student

#: Scenes and rows per scene that the effective rank is measured on.
RANK_SCENES, RANK_ROWS = 4, 4096


@dataclass(frozen=True)
class PretrainResult(RunResult):
    """Also: effective rank of the encoder's features (NaN in all processes but the first) and their width."""

    effective_rank: float
    width: int


def pretrain(config: GaussianCrossConfig, data: CaptureScenes, out: str | Path, device: torch.device) -> PretrainResult:
    """Pretrain, or go on with the run that `out` holds."""
    with launch(config, device) as processes:
        recipe = GaussianCrossRecipe(config, data, device)
        done = Run(recipe, out, processes).train()
        if math.isnan(recipe.rank) and processes.main:  # the run was over before
            recipe.rank = recipe.measured_rank(load_encoder(out).to(device))
    return PretrainResult(**vars(done), effective_rank=recipe.rank, width=recipe.model.encoder.out_channels)


class GaussianCrossRecipe(Recipe[CaptureBatch]):
    """Pretrain an encoder on posed views. `rank`: effective rank at the last validation; NaN before."""

    config: GaussianCrossConfig
    model: GaussianCross
    activity = "pretraining"
    label = "pretrain"

    def __init__(self, config: GaussianCrossConfig, data: CaptureScenes, device: torch.device) -> None:
        self.config, self.optim, self.device = config, config.optim, device
        self.batch_size, self.memory, self.rank = config.batch_size, {}, math.nan
        self.workers, self.prefetch = config.data.workers, config.data.prefetch
        torch.manual_seed(model_seed(config.seed, 0))
        encoder = make_encoder(config.encoder)
        resolved = {"config": config.model_dump(mode="json"), "encoder": encoder.config.model_dump(mode="json")}
        self.identity = {"recipe": "gaussiancross", **resolved, **data.identity}
        self.dataset = CaptureDataset(data.scenes, encoder.config, config)
        self.model = GaussianCross(encoder, config.head, data.channels, config.projector_hidden).to(device)
        self.steps_per_epoch = self.dataset.mixture.steps
        self.steps = config.epochs * self.steps_per_epoch

    def seed(self, step: int) -> int:
        """Of a step, and of the process: draws of the model do not name the scene that they are made for."""
        rank = self.processes.rank
        return model_seed(self.config.seed, step + 1, *([rank] if rank else []))

    def batch(self, step: int, first: int, last: int) -> CaptureBatch:
        return self.dataset.batch(step, first, last)

    def shard_units(self) -> Sequence[nn.Module]:
        """The encoder: heads and projectors are small."""
        return self.model.encoder.units()

    def loss(self, batch: CaptureBatch, step: int) -> Loss:
        return step_loss(self.model, batch, self.config, self.seed(step), self.processes)

    def validate(self, weights: Mapping[str, Tensor], step: int) -> Validation:
        """Effective rank of the encoder's features: how many directions they really use."""
        encoder = Encoder(self.model.encoder.config).to(self.device)  # the one in training may be shared out
        tensors = self.model.encoder_tensors(weights)
        encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in tensors.items()})
        self.rank, width = self.measured_rank(encoder.eval()), encoder.out_channels
        return Validation(
            {"effective_rank": self.rank, "width": width}, f"effective rank {self.rank:.1f} of {width} channels"
        )

    def measured_rank(self, encoder: Encoder) -> float:
        """Effective rank of the features of some points of the first scenes."""
        features = []
        for number, scene in enumerate(self.dataset.scenes[:RANK_SCENES]):
            values = encode_scene(encoder, scene.points).numpy()
            rows = generator(self.config.seed, MODEL, 0, number).permutation(len(values))[:RANK_ROWS]
            features.append(values[np.sort(rows)])
        return effective_rank(np.concatenate(features))

    def save(self, folder: Path, weights: Mapping[str, Tensor], step: int, *, final: bool) -> None:
        """The encoder: config.json, model.safetensors, README.md."""
        notes = (
            f"Pretrained by rendering (GaussianCross) for {step} of {self.steps} steps of "
            f"{self.config.batch_size} scenes, on {len(self.dataset.scenes)} scenes, seed {self.config.seed}. "
            "It has no projectors: probe it, fine-tune it, or train projectors on it with encoder.weights.\n"
        )
        save_student(Student(self.model.encoder, {}), folder, self.model.encoder_tensors(weights), notes=notes)

    def note(self, record: Mapping[str, Any]) -> str:
        losses = " ".join(f"{name} {value:.3f}" for name, value in record.get("terms", {}).items())
        return f"{losses}, {record.get('gaussians', 0):.0f} Gaussians"
