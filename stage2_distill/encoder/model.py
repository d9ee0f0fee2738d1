"""Encoder: stem, stages of blocks with pooling between them, and a U-Net decoder (or concatenation on the way up, in
enc_mode).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chorus_common.runtime.errors import SceneError
from stage2_distill.encoder.blocks import Block, Stem, batch_norm
from stage2_distill.encoder.config import EncoderConfig
from stage2_distill.encoder.hierarchy import Level, build_hierarchy
from stage2_distill.encoder.point_batch import PointBatch
from stage2_distill.encoder.pooling import NormFactory, Pooling, Unpooling
from stage2_distill.encoder.sparse_conv import SubMConv3d
from stage2_distill.hub import WeightsSource


@dataclass(frozen=True, eq=False)
class LevelFeatures:
    """Features [N_l, C_l] of one encoder stage and where its voxels are (`level.grid_coord`, `level.batch`,
    `level.cluster`).
    """

    feat: Tensor
    level: Level


class Stage(nn.ModuleDict):
    """Keys down.*, block{i}.*"""


class Encoder(nn.Module):
    """A point transformer. `config` says what it is and how to feed it; `out_channels` is the width of its features."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        #: where its weights come from; None = from no file
        self.source: WeightsSource | None = None
        norm = partial(batch_norm, momentum=config.norm_momentum) if config.norm == "batch" else nn.LayerNorm
        c = config.enc_channels
        self.embedding = Stem(
            config.in_channels,
            c[0],
            config.stem,
            config.stem_kernel,
            norm,
            mask_token=config.mask_token,
            input_norm=config.input_norm,
        )
        rates = torch.linspace(0, config.drop_path, max(1, sum(config.enc_depths)), device="cpu").tolist()
        self.enc = nn.ModuleDict()
        for s in range(len(c)):
            stage = Stage()
            if s:
                stage["down"] = Pooling(c[s - 1], c[s], config.pool_reduce, norm)
            first = sum(config.enc_depths[:s])
            for i in range(config.enc_depths[s]):
                stage[f"block{i}"] = _block(config, "enc", s, i, first + i, rates[first + i], norm)
            self.enc[f"enc{s}"] = stage
        if not config.enc_mode:
            rates = torch.linspace(0, config.drop_path, max(1, sum(config.dec_depths)), device="cpu").tolist()
            widths = (*config.dec_channels, c[-1])
            self.dec = nn.ModuleDict()
            for s in reversed(range(len(c) - 1)):
                stage = Stage()
                stage["up"] = Unpooling(widths[s + 1], c[s], widths[s], norm)
                first, depth = sum(config.dec_depths[:s]), config.dec_depths[s]
                for i in range(depth):  # the schedule runs backwards within a stage: deeper blocks drop more
                    number = sum(config.enc_depths) + first + i
                    stage[f"block{i}"] = _block(config, "dec", s, i, number, rates[first + depth - 1 - i], norm)
                self.dec[f"dec{s}"] = stage
        if config.norm == "layer":
            self.apply(_init_m2)

    @property
    def out_channels(self) -> int:
        """Width D of the features that `forward` returns."""
        return self.config.out_channels

    def stage(self, side: Literal["enc", "dec"], s: int) -> Stage:
        """The modules `down` or `up` and `block{i}` of stage s of the encoder or decoder."""
        stage = self.get_submodule(f"{side}.{side}{s}")
        assert isinstance(stage, Stage)
        return stage

    def units(self) -> list[nn.Module]:
        """Its blocks and, last, itself: what is worth sharing out among processes as a whole."""
        return [*(module for module in self.modules() if isinstance(module, Block)), self]

    def hierarchy(
        self,
        batch: PointBatch,
        *,
        order_permutations: Sequence[Sequence[int]] | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Level]:
        """The levels of `batch` as this encoder uses them (see `build_hierarchy`); curves are shuffled in training
        mode only.
        """
        if batch.feat.shape[1] != self.config.in_channels:
            raise SceneError(
                f"encoder {self.config.name} takes {self.config.in_channels} feature channels, "
                f"the batch has {batch.feat.shape[1]}; "
                "make batches with encoder.inputs.scene_inputs and this encoder's config"
            )
        shuffle = self.training and self.config.shuffle_orders
        return build_hierarchy(
            batch,
            self.config,
            order_permutations=order_permutations,
            shuffle=shuffle,
            jitter=self.training,
            generator=generator,
        )

    def forward(
        self,
        batch: PointBatch,
        *,
        order_permutations: Sequence[Sequence[int]] | Tensor | None = None,
        generator: torch.Generator | None = None,
        levels: list[Level] | None = None,
    ) -> Tensor:
        """Features [N, D] of every row of `batch`.

        Args:
            order_permutations: upstream's order draws, for parity with a given upstream run (see `build_hierarchy`).
            generator: CPU generator of the order shuffling in training mode.
            levels: the result of `hierarchy`, where it was computed beforehand.

        In enc_mode the features of the deepest levels are concatenated as they are carried up (Sonata demo/0_pca.py).
        """
        if levels is None:
            levels = self.hierarchy(batch, order_permutations=order_permutations, generator=generator)
        stages = self._encode(batch.feat, levels)
        return self._upcast(stages, levels) if self.config.enc_mode else self._decode(stages, levels)

    def forward_levels(
        self,
        batch: PointBatch,
        *,
        order_permutations: Sequence[Sequence[int]] | Tensor | None = None,
        generator: torch.Generator | None = None,
        levels: list[Level] | None = None,
        report: Callable[[int], None] | None = None,
    ) -> list[LevelFeatures]:
        """Features after every encoder stage, finest first; the last entry is what upstream returns in enc_mode.

        levels: the result of `hierarchy`, where it was computed beforehand. report: called with the number of a
        block's rows after each block.
        """
        if levels is None:
            levels = self.hierarchy(batch, order_permutations=order_permutations, generator=generator)
        return [LevelFeatures(feat, level) for feat, level in zip(self._encode(batch.feat, levels, report), levels)]

    def decode(self, levels: Sequence[LevelFeatures]) -> Tensor:
        """What `forward` returns, from the result of `forward_levels` [N, D]."""
        stages, own = [f.feat for f in levels], [f.level for f in levels]
        return self._upcast(stages, own) if self.config.enc_mode else self._decode(stages, own)

    def _encode(self, feat: Tensor, levels: list[Level], report: Callable[[int], None] | None = None) -> list[Tensor]:
        x = self.embedding(feat, levels[0])
        outputs = []
        for s, level in enumerate(levels):
            stage = self.stage("enc", s)
            if s:
                x = stage["down"](x, level.cluster, len(level))
            for i in range(self.config.enc_depths[s]):
                x = self._run(stage[f"block{i}"], x, level, None)
                if report is not None:
                    report(len(level))
            outputs.append(x)
        return outputs

    def _decode(self, stages: list[Tensor], levels: list[Level]) -> Tensor:
        x = stages[-1]
        for s in reversed(range(len(levels) - 1)):
            stage = self.stage("dec", s)
            x, skip = stage["up"](x, stages[s], levels[s + 1].cluster)
            for i in range(self.config.dec_depths[s]):
                x = self._run(
                    stage[f"block{i}"], x, levels[s], skip if self.config.legacy_decoder_cpe and i == 0 else None
                )
        return x

    def _upcast(self, stages: list[Tensor], levels: list[Level]) -> Tensor:
        x = stages[-1]
        for s in reversed(range(len(levels) - 1)):
            cluster = levels[s + 1].cluster
            assert cluster is not None
            x = x.index_select(0, cluster)
            if s >= len(levels) - 1 - self.config.upcast:
                x = torch.cat([stages[s], x], dim=1)
        return x

    def _run(self, block: nn.Module, x: Tensor, level: Level, conv_input: Tensor | None) -> Tensor:
        if self.config.checkpoint_blocks and torch.is_grad_enabled():
            return checkpoint(block, x, level, conv_input, use_reentrant=False)
        return block(x, level, conv_input)


def _block(config: EncoderConfig, side: str, s: int, i: int, number: int, drop_path: float, norm: NormFactory) -> Block:
    """Block i of stage s of the encoder (side "enc") or decoder ("dec"), the `number`-th of all."""
    conv, attn = getattr(config, f"{side}_conv")[s], getattr(config, f"{side}_attn")[s]
    rope = getattr(config, f"{side}_rope_freq")
    return Block(
        getattr(config, f"{side}_channels")[s],
        getattr(config, f"{side}_num_head")[s],
        getattr(config, f"{side}_patch_size")[s],
        i,
        number=number,
        conv=conv,
        attn=attn,
        style=config.block,
        mlp_ratio=config.mlp_ratio,
        qkv_bias=config.qkv_bias,
        drop_path=drop_path,
        layer_scale=config.layer_scale,
        rope_base=None if rope is None else rope[s],
        rope_position=config.rope_position,
        norm=norm,
    )


def _init_m2(module: nn.Module) -> None:
    """Sonata's initialisation: truncated normal 0.02, zero biases (Sonata model.py:735-743)."""
    if isinstance(module, nn.Linear | SubMConv3d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
