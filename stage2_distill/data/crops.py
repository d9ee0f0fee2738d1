"""Spatial crops of Gaussians that lie in Morton order: which matrix rows a sample takes."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chorus_common.bounds import bounds
from stage2_distill.encoder.inputs import voxelise

I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
CropKind = Literal["sphere", "rows"]


def crop_rows(
    means: NDArray[np.float32], valid: Bool, kind: CropKind, max_points: int, rng: np.random.Generator
) -> I64:
    """Rows of one crop, ascending; at most `max_points` of them (0 = no limit), around a Gaussian drawn from `valid`.

    "sphere" takes the nearest Gaussians to the drawn one; "rows" a contiguous range of Morton order that holds it
    (blocky in space, but read from the cache as one piece). Drawing the centre among Gaussians with visibility keeps
    crops from being empty of targets.

    Args:
        means: [N, 3] in metres, rows in Morton order. valid: [N], at least one True.
    """
    n = len(means)
    if max_points <= 0 or n <= max_points:
        return np.arange(n)
    center = int(rng.choice(np.flatnonzero(valid)))
    if kind == "rows":
        start = int(np.clip(center - rng.integers(max_points), 0, n - max_points))
        return np.arange(start, start + max_points)
    distance = ((means - means[center]) ** 2).sum(1)
    return np.sort(np.argpartition(distance, max_points - 1)[:max_points])


def chunk_rows(
    means: NDArray[np.float32],
    valid: Bool,
    *,
    size: float,
    stride: float,
    height: float | None,
    min_rows: int,
    rng: np.random.Generator,
) -> I64:
    """Rows of one box of the scene's grid of boxes, ascending; all boxes that are full enough are as likely.

    The grid is SceneSplat's and the released Chorus's (its chunks of 6 x 6 m at a stride of 4 m): boxes begin at the
    scene's lower corner and at every `stride` from there until one reaches the far end. What differs from their chunks
    on disk: a scene no longer than a box is one box (a side of at most `size - stride` has none there), `min_rows` are
    counted before any thinning (there after one of 0.01 m), a scene whose boxes all have fewer gives its fullest one,
    and an epoch holds a box of every scene (there every box, so that large scenes come more often; say so by
    data.weights).

    Args:
        means: [N, 3] in metres. valid: [N], at least one True; a box holds at least one.
        size, stride <= size: in x and y, metres. height: of boxes, which are then cut at `stride` in z, too; None = as
            high as the scene.
    """
    low, high = bounds(means)
    starts = [
        _starts(float(span), side, stride) for span, side in zip(high - low, (size, size, height)) if side is not None
    ]
    boxes = []
    for corner in itertools.product(*starts):
        inside = np.ones(len(means), dtype=bool)
        for axis, (start, side) in enumerate(zip(corner, (size, size, height))):
            assert side is not None
            place = means[:, axis] - low[axis]
            inside &= (place >= start) & (place <= start + side)
        if (inside & valid).any():
            boxes.append(np.flatnonzero(inside))
    full = [rows for rows in boxes if len(rows) >= min_rows]
    if not full:
        return max(boxes, key=len)
    return full[int(rng.integers(len(full)))]


def thinned(means: NDArray[np.float32], valid: Bool, cell: float, rng: np.random.Generator) -> I64:
    """Places [K], ascending, of one Gaussian drawn from each cell of side `cell` metres; of the `valid` ones where the
    cell has any (SceneSplat's sampling_chunking_data_gs.py, which draws once for all and takes the first where none is
    valid).
    """
    _, voxel, starts, _ = voxelise(means.astype(np.float64), cell)
    order = np.lexsort((rng.random(len(means)), ~valid, voxel))
    return np.sort(order[starts])


def _starts(span: float, side: float, stride: float) -> NDArray[np.float64]:
    """Where boxes of `side` begin along an axis of length `span`: the last one reaches the end."""
    return np.arange(max(1, int(np.ceil((span - side) / stride - 1e-9)) + 1), dtype=np.float64) * np.float64(stride)
