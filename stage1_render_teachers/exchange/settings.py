"""Settings of `chorus-stage1 import`: what changes a byte of an imported cache."""

from __future__ import annotations

from pydantic import Field

from chorus_common.features.quantise import Bits
from chorus_common.runtime.config import Config
from chorus_common.scene_check.settings import AlignmentSettings


class ImportCalibration(Config):
    """From how much of the manifest a standardiser is fitted that the store lacks."""

    scenes: int = Field(default=16, ge=1, description="scenes drawn from those that have features of the teacher")
    rows: int = Field(default=20_000, ge=2, description="features drawn from each of them")


class ImportConfig(Config):
    """Everything that changes a byte of an imported scene's cache; its hash is part of the scene's fingerprint."""

    bits: Bits = Field(default="ecsq", description="per channel of a feature, see docs/design/cache.md")
    weight: float = Field(
        default=1.0,
        gt=0,
        description="visibility that a Gaussian with features gets; of own scenes it is the sum of blending weights",
    )
    alignment: AlignmentSettings = Field(
        default_factory=AlignmentSettings,
        description="which way is up, metres per unit, and stray Gaussians: how a scene is brought in order first",
    )
    seed: int = Field(default=0, ge=0, description="of everything that is drawn")
    calibration: ImportCalibration = Field(default_factory=ImportCalibration)
