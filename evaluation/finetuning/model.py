"""Segmentor: an encoder, a linear layer for classes and, for instances, a small head for offsets; what of it is frozen.

The encoder's features pass a batch normalisation without parameters before the heads: encoders differ in the scale of
their channels by orders of magnitude, and a learning rate should not have to know. At inference it is a fixed affine
map, so a linear probe stays linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evaluation.finetuning.settings import DecoderSettings, FineTuneConfig
from stage2_distill.encoder import Encoder, EncoderConfig, PointBatch


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a segmentor says about the N voxels of a batch: logits [N, K]; offsets [N, 3] in metres, or None."""

    logits: Tensor
    offsets: Tensor | None


class Segmentor(nn.Module):
    """Encoder and heads.

    Args:
        n_classes: K. offsets: whether there is an offset head. frozen: which part of the encoder keeps its weights:
            "all", its "encoder" side (stem and stages, not the decoder), or "none".
        strict: frozen parts are in eval mode even while the rest trains.
    """

    def __init__(self, encoder: Encoder, n_classes: int, *, offsets: bool, frozen: str, strict: bool) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.out_channels
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.classes = nn.Linear(width, n_classes)
        # PointGroup's offset branch: one hidden layer as wide as the features.
        self.offsets = (
            nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))
            if offsets
            else None
        )
        self.frozen, self.strict = frozen, strict
        for module in self.frozen_modules():
            module.requires_grad_(False)

    def frozen_modules(self) -> list[nn.Module]:
        """The parts that keep their weights."""
        if self.frozen == "all":
            return [self.encoder]
        return [self.encoder.embedding, self.encoder.enc] if self.frozen == "encoder" else []

    def train(self, mode: bool = True) -> Segmentor:
        """Training mode, except for frozen parts under `strict`."""
        super().train(mode)
        if mode and self.strict:
            for module in self.frozen_modules():
                module.eval()
            if self.frozen != "none":
                self.encoder.training = False  # its own flag decides whether curves are shuffled
        return self

    def forward(self, points: PointBatch) -> Outputs:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.frozen != "all"):
            features = self.encoder(points)
        features = self.norm(features.float())
        return Outputs(self.classes(features), None if self.offsets is None else self.offsets(features))


def build_segmentor(encoder: Encoder, n_classes: int, config: FineTuneConfig) -> Segmentor:
    """The model that `config` fine-tunes, from a copy of `encoder`; new parts are drawn by `config.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.mode == "decoder":
            start = rebuilt(encoder, probe_decoder(encoder.config, config.decoder))
        elif config.features == "levels":
            deepest = len(encoder.config.enc_channels) - 1
            start = rebuilt(encoder, encoder.config.model_copy(update={"enc_mode": True, "upcast": deepest}))
        else:
            start = rebuilt(encoder, encoder.config)
        frozen = {"linear": "all", "decoder": "encoder", "full": "none"}[config.mode]
        model = Segmentor(
            start, n_classes, offsets=config.task == "instance", frozen=frozen, strict=config.freeze == "strict"
        )
    return model.to(next(encoder.parameters()).device)


def probe_decoder(config: EncoderConfig, decoder: DecoderSettings) -> EncoderConfig:
    """`config` with the decoder probe's decoder: the encoder's widths, blocks, heads and patches on the way back."""
    head_width = [c // h for c, h in zip(config.enc_channels, config.enc_num_head)]
    widths = list(config.enc_channels[:-1])
    widths[0] = -(-max(widths[0], decoder.min_channels) // head_width[0]) * head_width[0]  # whole heads
    rope = None if config.enc_rope_freq is None else config.enc_rope_freq[:-1]
    return EncoderConfig.model_validate(
        config.model_dump()
        | {
            "enc_mode": False,
            "dec_channels": tuple(widths),
            "dec_depths": (decoder.depth,) * len(widths),
            "dec_num_head": tuple(c // w for c, w in zip(widths, head_width)),
            "dec_patch_size": config.enc_patch_size[:-1],
            "dec_conv": config.enc_conv[:-1],
            "dec_attn": config.enc_attn[:-1],
            "dec_rope_freq": rope,
            "legacy_decoder_cpe": False,
        }
    )


def rebuilt(encoder: Encoder, config: EncoderConfig) -> Encoder:
    """An encoder of `config` with the weights that `encoder` has for it: all, or those of its encoder side."""
    fresh = Encoder(config)
    state = fresh.state_dict()
    old = encoder.state_dict()
    shared = [k for k in state if k in old and (config == encoder.config or not k.startswith("dec."))]
    fresh.load_state_dict(state | {k: old[k].detach().cpu() for k in shared})
    return fresh
