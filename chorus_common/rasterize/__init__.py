"""Rasterisers behind one protocol. `get_backend("cpu").render(...)` draws a view and returns its (cell, Gaussian)
weights."""

from typing import TYPE_CHECKING

from chorus_common.runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from chorus_common.rasterize.backends import get_backend
    from chorus_common.rasterize.protocol import Fold, Rasterizer, Rendered

__all__ = ["Fold", "Rasterizer", "Rendered", "get_backend"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "chorus_common.rasterize.backends": ("get_backend",),
        "chorus_common.rasterize.protocol": ("Fold", "Rasterizer", "Rendered"),
    },
)
