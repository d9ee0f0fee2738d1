"""The encoder at its official size against upstream's algorithm on the same weights, in the same run.

Upstream's algorithm written plainly: attention that materialises its logits, convolution that gathers N x 27 x C
(tests/bench/bench_encoder.py). It is neither flash-attn nor spconv.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from stage2_distill.encoder import build_encoder
from tests.bench.bench_encoder import plain_forward, room
from tests.gpu_check.context import Context, median, relative_error


def run(context: Context) -> None:
    """A row per size: both times, interleaved, and both memories."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    narrow = {"enc_channels": (12, 24, 48)} if context.rehearse else {}
    encoder = build_encoder("chorus-3dgs", **narrow).eval().to(context.device)
    for voxels in context.size((20_000, 60_000, 120_000), (500,)):
        context.check_time(8)
        batch = room(voxels, encoder.config.in_channels).to(context.device)
        run_ours, run_upstream = partial(encoder, batch), partial(plain_forward, encoder, batch)
        ours: dict[str, Any] = {}
        theirs: dict[str, Any] = {}
        with torch.inference_mode():
            with context.memory(ours):
                expected = run_ours()
            try:
                with context.memory(theirs):
                    found = run_upstream()
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                note = "upstream's algorithm does not fit into the memory"
                context.add(voxels=len(batch), seconds=median(context.seconds(run_ours)), mib=ours["mib"], note=note)
                continue
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(3):
                times[0].append(median(context.seconds(run_ours, repeats=3, most=4)))
                times[1].append(median(context.seconds(run_upstream, repeats=3, most=4)))
        ratios = sorted(a / b for a, b in zip(*times))
        context.add(
            voxels=len(batch), seconds=median(sorted(times[0])), upstream_s=median(sorted(times[1])),
            ratio=median(ratios), ratio_least=ratios[0], ratio_most=ratios[-1],
            mib=ours["mib"], upstream_mib=theirs["mib"], error=relative_error(found, expected),
        )  # fmt: skip
