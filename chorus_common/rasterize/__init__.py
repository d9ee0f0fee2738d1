"""Rasterisers behind one protocol. `get_backend("cpu").render(...)` draws a view and returns its (cell, Gaussian)
weights; `render_values` draws labels, features or heat in place of colours.

The rule that all of them follow stands in rules.py; reference_rasterizer.py in the tests is the same rule in plain
float64, and the place to read first."""

from typing import TYPE_CHECKING

from chorus_common.runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from chorus_common.rasterize.backends import get_backend
    from chorus_common.rasterize.protocol import Interpolation, Rasterizer, Rendered
    from chorus_common.rasterize.values import render_values

__all__ = ["Interpolation", "Rasterizer", "Rendered", "get_backend", "render_values"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "chorus_common.rasterize.backends": ("get_backend",),
        "chorus_common.rasterize.protocol": ("Interpolation", "Rasterizer", "Rendered"),
        "chorus_common.rasterize.values": ("render_values",),
    },
)
