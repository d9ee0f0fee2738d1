"""Rasterisers behind one protocol. `get_backend("cpu").render(...)` draws a view and returns its (cell, Gaussian)
weights; `render_values` draws labels, features or heat in place of colours.

The rule that all of them follow stands in rules.py; reference_rasterizer.py in the tests is the same rule in plain
float64, and the place to read first."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from chorus_common.rasterize.cpu import CpuRasterizer
from chorus_common.rasterize.protocol import Interpolation, Rasterizer, Rendered
from chorus_common.rasterize.values import render_values
from chorus_common.runtime.errors import ConfigError

__all__ = ["Interpolation", "Rasterizer", "Rendered", "get_backend", "render_values"]


def _gsplat() -> Rasterizer:
    from chorus_common.rasterize.gsplat_cuda import GsplatRasterizer

    return GsplatRasterizer()


_BACKENDS: dict[str, Callable[[], Rasterizer]] = {"cpu": CpuRasterizer, "gsplat": _gsplat}


def get_backend(name: str) -> Rasterizer:
    """The rasteriser called `name`; ConfigError with the nearest name for any other."""
    if name not in _BACKENDS:
        near = difflib.get_close_matches(name, _BACKENDS, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"rasteriser {name!r} is unknown, known: {', '.join(_BACKENDS)}{hint}")
    return _BACKENDS[name]()
