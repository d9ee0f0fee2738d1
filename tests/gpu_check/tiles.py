"""How many output rows a device should take at a time: the tile of convolutions and of inference, at some sizes."""

from __future__ import annotations

from unittest.mock import patch

import torch

from stage2_distill.encoder import blocks, build_encoder, sparse_conv
from tests.bench.bench_encoder import room
from tests.gpu_check.context import Context, median


def run(context: Context) -> None:
    """A row per tile; the product's own is `sparse_conv.DEVICE_TILE`."""
    torch.manual_seed(0)
    narrow = {"enc_channels": (12, 24, 48)} if context.rehearse else {}
    encoder = build_encoder("chorus-3dgs", **narrow).eval().to(context.device)
    batch = room(context.size(200_000, 500), encoder.config.in_channels).to(context.device)
    for tile in context.size((1 << 13, 1 << 15, 1 << 16, 1 << 17, 1 << 18, 1 << 20), (64, 256)):
        context.check_time(4)
        figures: dict[str, float] = {}
        with (
            torch.inference_mode(),
            patch.object(sparse_conv, "DEVICE_TILE", tile),
            patch.object(blocks, "DEVICE_TILE", tile),
        ):
            with context.memory(figures):
                encoder(batch)
            times = context.seconds(lambda: encoder(batch), repeats=3, most=3)
        context.add(tile=tile, voxels=len(batch), own=tile == sparse_conv.DEVICE_TILE, seconds=median(times), **figures)
