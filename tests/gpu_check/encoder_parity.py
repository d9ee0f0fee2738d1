"""Encoders on the device against the same on the CPU, in float32 and bfloat16; and a cloud alone against in a batch."""

from __future__ import annotations

import torch

from stage2_distill.encoder import PointBatch, build_encoder
from tests.bench.bench_encoder import room
from tests.gpu_check.context import Context, relative_error

#: relative L2 that may be found: float32 sums in another order, bfloat16 as on a CPU
ALLOWED = {"fp32": 1e-4, "bf16": 5e-2, "alone": 1e-4}


def run(context: Context) -> None:
    """A row per preset: errors, and whether they are allowed."""
    torch.backends.cuda.matmul.allow_tf32 = False
    for preset in ("chorus-lite", "sonata", "ptv3", "litept-s", "utonia", "chorus-3dgs"):
        context.check_time(8)
        narrow = {"enc_channels": (36, 72, 144)} if context.rehearse else {}
        torch.manual_seed(0)
        encoder = build_encoder(preset, **narrow).eval()
        clouds = [room(n, encoder.config.in_channels) for n in context.size((6_000, 9_000), (300, 500))]
        batch = PointBatch.concatenate(clouds)
        with torch.inference_mode():
            expected = encoder(batch)
            encoder.to(context.device)
            found = {"fp32": encoder(batch.to(context.device)).cpu()}
            with torch.autocast(context.device.type, torch.bfloat16):
                found["bf16"] = encoder(batch.to(context.device)).float().cpu()
            alone = encoder(clouds[0].to(context.device)).cpu()
        errors = {kind: relative_error(value, expected) for kind, value in found.items()}
        errors["alone"] = relative_error(alone, found["fp32"][: len(alone)])
        passed = all(errors[kind] <= bound for kind, bound in ALLOWED.items())
        context.add(preset=preset, voxels=len(batch), **errors, passed=passed)
