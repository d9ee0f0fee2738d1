"""Cost of one differentiable view: our kernels against the same rule written in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from stage2_distill.gaussiancross.raster.cpu import rasterize_cpu
from tests.bench.measure import interleaved, seconds
from tests.bench.row import Row
from tests.stage2.gaussiancross.splat_twin import rasterize_twin, some_camera, some_gaussians

COMMAND = "python -m tests.bench gaussiancross"
SIZE, CHANNELS = (80, 60), 19


def rows() -> list[Row]:
    """CPU milliseconds of forward and backward over an 80 x 60 view with 19 values per Gaussian."""
    many = view(rasterize_cpu, 6000)
    many()  # compiles
    slow = 1e3 * seconds(many, repeats=5)
    times = interleaved(view(rasterize_cpu, 300), view(rasterize_twin, 300), rounds=3, repeats=5)
    return [
        times.row(
            "gaussiancross/view-300", "ms CPU, there and back", COMMAND, "the same rule in torch", times_faster=True,
            scale=1e3,
        ),
        Row("gaussiancross/view-6000", slow, "ms CPU, there and back", slow, COMMAND),
    ]  # fmt: skip


def view(rasterize: Callable[..., Any], count: int) -> Callable[[], None]:
    """A forward and a backward pass over the view."""
    parts = some_gaussians(0, count, CHANNELS, dtype=torch.float32)
    parts[2] = parts[2] * 0.3
    camera = tuple(c.float() if rasterize is rasterize_twin else c for c in some_camera(*SIZE))

    def there_and_back() -> None:
        leaves = [p.clone().requires_grad_() for p in parts]
        sum(o.sum() for o in rasterize(*leaves, *camera, *SIZE)).backward()

    return there_and_back
