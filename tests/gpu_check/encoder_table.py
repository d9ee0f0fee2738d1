"""How fast an encoder is on the device and what memory it takes, from 20 thousand to 2 million voxels.

And how near that is to what the card could do.

The limit of a forward pass is the larger of two times: its products at the card's own speed of large matrix products,
and its features, weights and tables moved once at the card's own speed of copying. Both speeds are measured first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stage2_distill.encoder import Encoder, PointBatch, build_encoder
from stage2_distill.encoder.attention import SerializedAttention
from stage2_distill.encoder.hierarchy import Level
from stage2_distill.encoder.sparse_conv import SubMConv3d
from tests.bench.bench_encoder import room_voxels
from tests.gpu_check.context import Context, median

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def run(context: Context) -> None:
    """First the card's two speeds, then a row per preset, size and precision."""
    speeds = {name: products_per_second(context, dtype) for name, dtype in DTYPES.items()}
    copied = bytes_per_second(context)
    context.add(what="card", flops_fp32=speeds["fp32"], flops_bf16=speeds["bf16"], bytes_per_s=copied)
    for voxels in context.size((20_000, 60_000, 200_000, 600_000, 2_000_000), (400,)):
        context.check_time(6)
        grid = room_voxels(voxels)
        for preset in ("chorus-lite", "sonata"):
            torch.manual_seed(0)
            narrow = {"enc_channels": (12, 24, 48)} if context.rehearse else {}
            encoder = build_encoder(preset, **narrow).eval().to(context.device)
            feat = torch.randn(len(grid), encoder.config.in_channels)
            batch = PointBatch(grid.float() * 0.02, grid, feat, torch.tensor([len(grid)])).to(context.device)
            for precision, dtype in DTYPES.items():
                context.check_time(6)
                measured = _measure(context, encoder, batch, dtype)
                work = _Work(encoder, batch)
                limit = max(work.products / speeds[precision], work.bytes_moved(dtype) / copied)
                context.add(
                    what="forward", preset=preset, voxels=len(batch), precision=precision, **measured,
                    tflop=work.products / 1e12, limit_s=limit, share_of_limit=limit / measured["seconds"],
                )  # fmt: skip
            del encoder


def _measure(context: Context, encoder: Encoder, batch: PointBatch, dtype: torch.dtype) -> dict[str, Any]:
    """Seconds with levels (median), levels alone, voxels per second, memory beyond weights and batch."""
    found: dict[str, Any] = {}
    with torch.inference_mode(), torch.autocast(context.device.type, dtype, enabled=dtype != torch.float32):
        try:
            with context.memory(found):
                encoder(batch)
            times = context.seconds(lambda: encoder(batch))
            levels = context.seconds(lambda: encoder.hierarchy(batch), repeats=3)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            return {"seconds": float("inf"), "voxels_per_s": 0.0, "note": "out of memory"}
    seconds = median(times)
    return {
        "seconds": seconds, "fastest_s": times[0], "slowest_s": times[-1], "levels_s": median(levels),
        "voxels_per_s": len(batch) / seconds, **found,
    }  # fmt: skip


class _Work:
    """Multiply-adds (counted twice) of a forward pass, and numbers that its layers read and write, by hooks."""

    def __init__(self, encoder: Encoder, batch: PointBatch) -> None:
        self.products, self.numbers, self.table_bytes = 0.0, 0.0, 0.0
        self.weights = sum(p.numel() for p in encoder.parameters())
        levels = encoder.hierarchy(batch)
        # by shapes alone: nothing is computed on features
        stages = [("enc", s) for s in range(len(levels))]
        if not encoder.config.enc_mode:
            stages += [("dec", s) for s in range(len(levels) - 1)]
        for side, s in stages:
            self._stage(encoder.stage(side, s), levels[s], levels[max(0, s - 1)] if side == "enc" else levels[s])  # type: ignore[arg-type]
        self._stage(encoder.embedding, levels[0], levels[0])
        for level in levels:
            for table in level._neighbours.values():
                self.table_bytes += 16.0 * len(table.out_rows)

    def _stage(self, stage: nn.Module, level: Level, above: Level) -> None:
        n = len(level)
        for name, module in stage.named_modules():
            rows = len(above) if name.startswith("down.proj") else n
            if isinstance(module, SubMConv3d):
                pairs = len(level.neighbours(module.kernel_size).out_rows) + n
                out_c, in_c = module.weight.shape[0], module.weight.shape[-1]
                self.products += 2.0 * pairs * in_c * out_c
                self.numbers += float(n) * (in_c + out_c)
            elif isinstance(module, nn.Linear):
                self.products += 2.0 * rows * module.in_features * module.out_features
                self.numbers += float(rows) * (module.in_features + module.out_features)
            elif isinstance(module, SerializedAttention):
                block = stage.get_submodule(name.rpartition(".")[0])
                length = min(n, int(block.patch_size))  # type: ignore[arg-type]
                self.products += 4.0 * n * length * module.proj.in_features
                self.numbers += 4.0 * n * module.proj.in_features

    def bytes_moved(self, dtype: torch.dtype) -> float:
        """Features once in and out of every layer, weights once, tables once."""
        return self.numbers * dtype.itemsize + self.weights * 4.0 + self.table_bytes


def products_per_second(context: Context, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product, in float32 without TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    n = context.size(8192, 256)
    a, b = (torch.randn(n, n, device=context.device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / context.seconds(lambda: a @ b)[0]


def bytes_per_second(context: Context) -> float:
    """Bytes read and written per second by a copy on the device."""
    n = context.size(2**28, 2**20)
    a, b = (torch.empty(n, device=context.device) for _ in range(2))
    return 8 * n / context.seconds(lambda: b.copy_(a))[0]
