"""Cost of one differentiable view: our kernels against the same rule written in torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from stage2_distill.gaussiancross.raster.cpu import rasterize_cpu
from tests.bench.row import Row
from tests.stage2.gaussiancross.splat_twin import rasterize_twin, some_camera, some_gaussians

COMMAND = "python -m tests.bench gaussiancross"
SIZE, CHANNELS = (80, 60), 19


def rows() -> list[Row]:
    """CPU milliseconds of forward and backward over an 80 x 60 view with 19 values per Gaussian."""
    few, many = seconds(rasterize_cpu, 300), seconds(rasterize_cpu, 6000)
    twin = seconds(rasterize_twin, 300, repeats=1)
    return [
        Row(
            "gaussiancross/view-300", 1e3 * few, "ms CPU, there and back", twin / few, COMMAND,
            baseline="the same rule in torch", baseline_value=1e3 * twin,
        ),
        Row("gaussiancross/view-6000", 1e3 * many, "ms CPU, there and back", 1e3 * many, COMMAND),
    ]  # fmt: skip


def seconds(rasterize: Callable[..., Any], count: int, repeats: int = 5) -> float:
    """Least CPU time of a forward and a backward pass."""
    parts = some_gaussians(0, count, CHANNELS, dtype=torch.float32)
    parts[2] = parts[2] * 0.3
    camera = tuple(c.float() if rasterize is rasterize_twin else c for c in some_camera(*SIZE))
    times = []
    for _ in range(repeats + 1):  # the first one compiles
        leaves = [p.clone().requires_grad_() for p in parts]
        start = time.process_time()
        sum(o.sum() for o in rasterize(*leaves, *camera, *SIZE)).backward()
        times.append(time.process_time() - start)
    return min(times)
