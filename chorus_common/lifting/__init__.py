"""Lifting as one sparse matrix W [N Gaussians, V views x cells]: build it from hits, lift 2D features to 3D, render
3D features to 2D.

W[i, (p, c)] is the sum of the blending weights w_i(p, u) = alpha T over the pixels u of cell c in view p. With D the
row sums,

    lift:   F3 = D^-1 W F2          (weighted mean over all pixels of all views in which a Gaussian contributes)
    render: F2 = D'^-1 W^T F3       (D' the column sums)

Sums are stored, never means, so shards and later views can be added. See docs/design/lifting.md.
"""

from typing import TYPE_CHECKING

from chorus_common.runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from chorus_common.lifting.cells import CellGrid, CellHits
    from chorus_common.lifting.index import LiftingIndex
    from chorus_common.lifting.morton import morton_order

__all__ = ["CellGrid", "CellHits", "LiftingIndex", "morton_order"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "chorus_common.lifting.cells": ("CellGrid", "CellHits"),
        "chorus_common.lifting.index": ("LiftingIndex",),
        "chorus_common.lifting.morton": ("morton_order",),
    },
)
