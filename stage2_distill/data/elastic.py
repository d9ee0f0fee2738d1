"""Elastic distortion: a smooth random displacement field, known only where there is something to displace.

The field is Gaussian noise on the nodes of a grid, blurred by two passes of a 3-tap box along every axis and read off
trilinearly. A whole grid would be as large as the bounding box, which a single far floater can make larger than memory,
so noise is drawn only for the nodes that reach a Gaussian: at most 6^3 per occupied cell, whatever the scene's extent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.bounds import bounds
from chorus_common.scene import GaussianScene

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Two passes of a 3-tap box, as one filter.
TAPS = np.convolve(np.ones(3), np.ones(3)) / 9
#: Nodes along an axis whose noise reaches a cell: its two corners, and what is blurred into them.
REACH = len(TAPS) + 1
_CORNERS = (REACH // 2 - 1, REACH // 2)


def elastic(scene: GaussianScene, rng: np.random.Generator, cell: float, magnitude: float) -> GaussianScene:
    """Move centres by the field: nodes every `cell` m (> 0), unit noise before the blur, times `magnitude` m.

    Covariances stay as they are: the displacement varies over `cell` and more, a Gaussian is smaller.
    """
    lowest, _ = bounds(scene.means)
    where: F64 = (scene.means.astype(np.float64) - lowest.astype(np.float64)) / cell
    base = np.floor(where)
    place = np.stack([_without_gaps(base[:, axis]) for axis in range(3)], axis=1)
    size = place.max(axis=0) + REACH
    strides = (int(size[1] * size[2]), int(size[2]), 1)
    cells, of_gaussian = _numbered(place @ np.array(strides))
    nodes, values = _blurred_noise(cells, strides, rng)
    upper = (where - base).T
    shares = (1 - upper, upper)
    shift = np.zeros_like(where)
    for corner in product((0, 1), repeat=3):
        node = cells + sum(_CORNERS[c] * stride for c, stride in zip(corner, strides))
        weight = shares[corner[0]][0] * shares[corner[1]][1] * shares[corner[2]][2]
        shift += weight[:, None] * values[np.searchsorted(nodes, node)][of_gaussian]
    moved: F32 = scene.means + (shift * magnitude).astype(np.float32)
    return replace(scene, means=moved)


def _without_gaps(cell: F64) -> I64:
    """Cells [N] along one axis, counted from 0, with wide gaps made REACH: cells so far apart share no noise as it is,
    and nodes stay few enough to be numbered.
    """
    known, place = _numbered(cell)
    return np.minimum(np.diff(known, prepend=known[0]), REACH).cumsum().astype(np.int64)[place]


def _numbered(values: NDArray[Any]) -> tuple[NDArray[Any], I64]:
    """np.unique with the inverse, at half the time: sorting values is faster than sorting their places."""
    known = np.unique(values)
    return known, np.searchsorted(known, values)


def _blurred_noise(cells: I64, strides: Sequence[int], rng: np.random.Generator) -> tuple[I64, F32]:
    """Ascending nodes [M], the corners of `cells`, and the blurred noise [M, 3] there.

    A node's number grows by strides[a] along axis a; the lowest node that reaches a cell has the cell's own number.
    """
    nodes = _nodes(cells, strides, 0)
    values = rng.standard_normal((len(nodes), 3), dtype=np.float32)
    for axis, stride in enumerate(strides):
        kept = _nodes(cells, strides, axis + 1)
        blurred = np.zeros((len(kept), 3), np.float32)
        for tap, weight in enumerate(TAPS):
            source = np.searchsorted(nodes, kept + (tap - len(TAPS) // 2) * stride)
            blurred += np.float32(weight) * values[source]
        nodes, values = kept, blurred
    return nodes, values


def _nodes(cells: I64, strides: Sequence[int], blurred: int) -> I64:
    """Ascending nodes that are needed of `cells` once the first so many axes are blurred: corners along these, all that
    reaches them along the others.
    """
    nodes = cells
    for axis, stride in enumerate(strides):
        offsets = np.array(_CORNERS if axis < blurred else range(REACH)) * stride
        nodes = np.unique(nodes[:, None] + offsets)
    return nodes
