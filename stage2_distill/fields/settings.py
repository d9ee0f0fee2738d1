"""FieldConfig: everything that decides what training a field computes.

"Published" is what the code of GAGS (WHU-USI3DV/GAGS, train.py, arguments/__init__.py, models/networks.py) does; every
other value is our choice, with the reason beside it and a figure in docs/guide/gags.md.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from stage2_distill.engine.settings import EngineSettings

LEARNED, AVERAGE = "learned", "average"


class FieldConfig(EngineSettings):
    """A field and its training: what the loop needs (`EngineSettings`), and what is its own.

    Attributes:
        channels: numbers per Gaussian. Published: 16.
        decoder_width, decoder_layers: of the MLP from there to the teacher's width. Published: 256 and 9. Ours: a fifth
            of the work, which is most of a step.
        granularity_widths: hidden layers of the MLP that weighs the levels. Published.
        selection: "learned" (published); "average" weighs all levels alike, a level's name takes it alone. The last
            two are what selection is compared with.
        iterations: optimiser steps. Published: 30,000. Ours: a thirtieth of it at thirty times the learning rates,
            because a step sees exact cells of a view, and minutes on a CPU are the aim.
        views_per_step: views whose cells make one step, over all processes. Published: 1.
        field_lr, decoder_lr, granularity_lr: Adam's learning rates of the vectors, the decoder and the MLP that weighs
            the levels. Published: 1e-3, 1e-4 and 1e-4. The last is larger here than in proportion: it has fewer steps
            to tell things apart, and what it can gain is small against the other terms.
        select_from: share of the iterations before which all levels count alike. Published: 0, from the first step on.
            Ours: vectors begin at zero, and a choice made before they differ is one for the whole scene, the level
            that suits most cells; it then confirms itself, since the field learns what was chosen.
        entropy, late_entropy: weight of the entropy term before and after `regulation_from`. Published: 0.001, 0.002.
        variance: weight of the in-region variance from there on. Published: 0.1.
        regulation_from: share of the iterations. Published: 15,001 of 30,000.
        blur: side of the box, in cells, over which probabilities are averaged before a pixel's region is chosen; odd.
            Published: 5 pixels, which is less than a cell: 1 leaves them as they are.
        min_alpha: share of a cell that must be covered by Gaussians for it to count. Ours: rendered means are
            normalised, so a nearly empty cell would count as much as a full one.
        min_share: share of a cell's pixels that one mask must fill, or the cell has none at that level. Ours.
        borrow: a cell without a mask at a level takes that of the nearest level which has one, the finer of two;
            otherwise only cells with a mask at every level count. Ours: SAM leaves most cells without a whole.
    """

    channels: int = Field(default=16, ge=1)
    decoder_width: int = Field(default=128, ge=1)
    decoder_layers: int = Field(default=5, ge=2)
    granularity_widths: tuple[int, ...] = (64, 128, 64, 32, 16)
    selection: str = LEARNED
    iterations: int = Field(default=1000, ge=1)
    views_per_step: int = Field(default=1, ge=1)
    field_lr: float = Field(default=3e-2, gt=0)
    decoder_lr: float = Field(default=3e-3, gt=0)
    granularity_lr: float = Field(default=1e-2, gt=0)
    select_from: float = Field(default=0.4, ge=0, le=1)
    entropy: float = Field(default=0.001, ge=0)
    late_entropy: float = Field(default=0.002, ge=0)
    variance: float = Field(default=0.1, ge=0)
    regulation_from: float = Field(default=0.5, ge=0, le=1)
    blur: int = Field(default=1, ge=1)
    min_alpha: float = Field(default=0.5, ge=0, le=1)
    min_share: float = Field(default=0.5, ge=0, le=1)
    borrow: bool = True
    checkpoint_every: int = Field(default=500, ge=1)

    @model_validator(mode="after")
    def _odd(self) -> FieldConfig:
        if self.blur % 2 == 0:
            raise ValueError("blur must be odd: the box lies around its cell")
        return self

    @property
    def select_step(self) -> int:
        """First step (from 0) in which a learned selection chooses."""
        return round(self.iterations * self.select_from)

    @property
    def regulation_step(self) -> int:
        """First step (from 0) with the late entropy weight and the variance term."""
        return round(self.iterations * self.regulation_from)
