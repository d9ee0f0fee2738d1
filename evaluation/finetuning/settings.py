"""FineTuneConfig: everything that decides what fine-tuning computes. The same config gives the same numbers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from chorus_common.runtime.config import Config
from evaluation.data_efficiency import LimitConfig
from evaluation.heads.grouping import GroupingConfig
from stage2_distill.data.augment import AugmentConfig
from stage2_distill.engine.settings import EngineSettings, OptimSettings


class FineTuneLossSettings(Config):
    """Weights of the loss terms.

    Attributes:
        cross_entropy, lovasz: weights of the two terms of the classes.
        offset: weight of the offsets to the middle of the instance (task "instance").
        balance: "plain" counts every voxel once, "balanced" weighs the cross entropy of a class by the inverse of its
            share of the labels that may be seen.
    """

    cross_entropy: float = Field(default=1.0, ge=0)
    lovasz: float = Field(default=1.0, ge=0)
    offset: float = Field(default=1.0, ge=0)
    balance: Literal["plain", "balanced"] = "plain"


class DecoderSettings(Config):
    """The light decoder of the decoder probe, as wide as the encoder's stages.

    Attributes:
        depth: blocks per stage (Pointcept's probe of Sonata: 2).
        min_channels: least width of the finest stage (Pointcept's probe of Sonata: 64).
    """

    depth: int = Field(default=2, ge=0)
    min_channels: int = Field(default=64, ge=1)


class FineTuneOptimSettings(OptimSettings):
    """The optimiser's settings with the defaults of fine-tuning: encoders move slowly, and weights are not averaged."""

    encoder_lr_scale: float = Field(default=0.1, ge=0)
    weight_decay: float = Field(default=0.02, ge=0)
    clip: float = Field(default=3.0, ge=0)
    ema: float = Field(default=0.0, ge=0, lt=1)


class FineTuneConfig(EngineSettings):
    """One fine-tuning run: what the loop needs (`EngineSettings`), and what is its own.

    Attributes:
        task: "semantic" (a class per Gaussian) or "instance" (classes, offsets, grouping).
        mode: "linear" = one linear layer on the frozen encoder; "decoder" = a fresh light decoder and a linear layer on
            the frozen encoder; "full" = everything is trained.
        features: what a linear layer sees: the encoder's "output", or all "levels" of its encoder side, concatenated
            (Pointcept's linear probe of Sonata).
        freeze: "strict" = frozen parts are in eval mode and stay as they are to the bit; "published" = only their
            gradients are off, as in Pointcept: drop path stays on and running statistics drift towards the new data.
        steps: optimiser steps; batch_size: crops per step. Fewer scenes do not mean fewer steps.
        max_points: Gaussians per crop (0 = whole scenes).
        memory_mb: how much of the scenes may be kept in memory. workers: threads that prepare crops.
    """

    task: Literal["semantic", "instance"] = "semantic"
    mode: Literal["linear", "decoder", "full"] = "linear"
    features: Literal["output", "levels"] = "output"
    freeze: Literal["strict", "published"] = "strict"
    steps: int = Field(default=2000, ge=1)
    batch_size: int = Field(default=4, ge=1)
    max_points: int = Field(default=102_400, ge=0)
    loss: FineTuneLossSettings = FineTuneLossSettings()
    limit: LimitConfig = LimitConfig()
    decoder: DecoderSettings = DecoderSettings()
    grouping: GroupingConfig = GroupingConfig()
    min_region: int = Field(default=100, ge=1, description="smallest instance that the official AP counts")
    augment: AugmentConfig = AugmentConfig()
    optim: FineTuneOptimSettings = FineTuneOptimSettings()
    memory_mb: int = Field(default=4096, ge=0)
    workers: int = Field(default=1, ge=0, le=64)

    @model_validator(mode="after")
    def _check(self) -> FineTuneConfig:
        if self.features == "levels" and self.mode != "linear":
            raise ValueError('features = "levels" is what a linear probe may see; mode must be "linear"')
        if self.loss.cross_entropy == 0 and self.loss.lovasz == 0:
            raise ValueError("loss.cross_entropy and loss.lovasz are both 0: nothing teaches the classes")
        return self
