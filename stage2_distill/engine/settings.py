"""Settings that all recipes share: what the loop itself needs to know, and the optimiser's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from chorus_common.runtime.config import Config

#: Of a running mean.
Decay = Annotated[float, Field(ge=0, lt=1)]


class EngineSettings(Config):
    """What the training loop needs to know, whatever it trains.

    Attributes:
        seed: of weights, order, samples and the model's own draws.
        micro_batch: samples per forward pass of one process (0 = all its share). Gradients are accumulated. BatchNorm,
            and losses that compare samples with each other, see one forward pass at a time.
        amp: "bf16" runs the forward pass under autocast; losses are computed in float32.
        checkpoint_every: steps between saved states (one is saved at the end, too).
        max_bad_steps: steps with a non-finite loss or gradient in a row after which the run gives up; each one is
            skipped.
        wandb: project of Weights & Biases to log to, beside TensorBoard ("" = none).
        sync_batch_norm: BatchNorm counts the rows of all processes, so that their number changes no result; else each
            process counts its own, and running statistics are averaged after every step.
        sharding: "full" shares out the encoder's weights, gradients, moments and averaged weights among the processes,
            for students that do not fit otherwise (PyTorch's FSDP2); "none" keeps all of it in each. It changes no
            number but for rounding, and a run may go on with the other.
        threads: threads of PyTorch (0 = its own choice). Results are equal to the bit for equal numbers of threads.
    """

    seed: int = Field(default=0, ge=0)
    micro_batch: int = Field(default=0, ge=0)
    amp: Literal["off", "bf16"] = "off"
    checkpoint_every: int = Field(default=200, ge=1)
    max_bad_steps: int = Field(default=5, ge=1)
    wandb: str = ""
    sync_batch_norm: bool = True
    sharding: Literal["none", "full"] = "none"
    threads: int = Field(default=0, ge=0)


class OptimSettings(Config):
    """Optimiser and its schedule.

    Attributes:
        lr: largest learning rate; encoder_lr_scale multiplies it for the encoder (below 1 to go easy on pre-trained
            weights), block_lr_scale for the blocks in it (SceneSplat's recipe: 0.1), layer_decay once for every
            stage between a parameter's and the projectors.
        weight_decay: pulls what decay says: "matrices" spares norms, biases and other vectors, which have no direction
            to be decayed in; "all" is upstream's recipe.
        schedule: "onecycle" (cosine up from lr / div over `warmup` of all steps, cosine down to lr / div / final_div),
            "cosine" (linear up, cosine down to 0) or "constant" (linear up, then flat).
        betas: decay of AdamW's two running means.
        cycle_beta1: smallest and largest decay of the first one, which then falls as the learning rate rises and rises
            as it falls, in place of betas' (null = constant). PyTorch's OneCycleLR does so unless it is told not to,
            with 0.85 and 0.95; so do the recipes of SceneSplat and Pointcept.
        clip: largest global gradient norm (0 = no clipping).
        ema: decay of the averaged weights that are saved (0 = save the weights themselves). The effective decay at step
            s is min(ema, (1 + s) / (10 + s)), so that short runs are not dominated by the start.
    """

    lr: float = Field(default=2e-3, gt=0)
    encoder_lr_scale: float = Field(default=1.0, ge=0)
    block_lr_scale: float = Field(default=1.0, ge=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    weight_decay: float = Field(default=0.05, ge=0)
    decay: Literal["matrices", "all"] = "matrices"
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    cycle_beta1: tuple[Decay, Decay] | None = None
    schedule: Literal["onecycle", "cosine", "constant"] = "onecycle"
    warmup: float = Field(default=0.05, ge=0, lt=1)
    div: float = Field(default=10.0, gt=0)
    final_div: float = Field(default=1000.0, gt=0)
    clip: float = Field(default=1.0, ge=0)
    ema: float = Field(default=0.999, ge=0, lt=1)

    @model_validator(mode="after")
    def _cycles(self) -> OptimSettings:
        if self.cycle_beta1 is not None and self.schedule != "onecycle":
            raise ValueError('cycle_beta1 belongs to schedule = "onecycle"')
        return self
