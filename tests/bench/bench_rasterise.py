"""Rasteriser: seconds per view including the weights per (cell, Gaussian), cell 16, against a plain port of the GPU
algorithm.

The baseline does what a CUDA kernel does, on the same threads: every pixel of a tile walks the tile's list front to
back until it is opaque, one exp per step, boxes instead of ellipses for the lists; the weights are summed per (tile,
Gaussian) on the way. The projection, the depth sort and the results are the same (checked on every run).
"""

from __future__ import annotations

import math
import time
from functools import partial

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from chorus_common.cameras import look_at, pinhole
from chorus_common.lifting import CellGrid
from chorus_common.rasterize import get_backend
from chorus_common.rasterize.cpu import visible_splats
from chorus_common.rasterize.splats import (
    BLUE,
    DEPTH,
    EXTENT_X,
    EXTENT_Y,
    GREEN,
    MEAN_X,
    MEAN_Y,
    OPACITY,
    RED,
    ROW_CURVATURE,
    ROW_SIGMA,
    ROW_SLOPE,
)  # fmt: skip
from chorus_common.runtime.threads import default_threads, run_tasks
from chorus_common.scene import GaussianScene, canonical_quats
from tests.bench.measure import interleaved
from tests.bench.row import Row

COMMAND = "make bench"
TILE = 16
View = tuple[GaussianScene, NDArray[np.float64], NDArray[np.float64], int, int]


def room_view() -> View:
    """A 640x480 view of 75,000 visible Gaussians, some 18 million blends: walls, floor and clutter at 1.5 to 6 m."""
    rng = np.random.default_rng(0)
    n, width, height = 75_000, 640, 480
    K = pinhole(width, height, 65)
    z = rng.uniform(1.5, 6.0, n)
    u, v = rng.uniform(0, width, n), rng.uniform(0, height, n)
    means = np.stack([(u - K[0, 2]) / K[0, 0] * z, (v - K[1, 2]) / K[1, 1] * z, z], 1)
    pixels = np.exp(rng.normal(np.log(2.55), 0.5, (n, 1))) * rng.uniform(
        0.4, 1.6, (n, 3)
    )  # standard deviation on the screen
    scene = GaussianScene(
        means.astype(np.float32),
        canonical_quats(rng.normal(size=(n, 4))),
        (pixels * z[:, None] / K[0, 0]).astype(np.float32),
        rng.uniform(0.02, 0.2, n).astype(np.float32),
        rng.uniform(0, 1, (n, 3)).astype(np.float32),
        name="room",
    )
    return scene, np.eye(4), K, width, height


def garden_view() -> View:
    """138,766 points spread like a structure-from-motion garden (a table, a lawn, hedges far off), as isotropic
    Gaussians."""
    rng = np.random.default_rng(0)
    n, width, height = 138_766, 648, 420
    table, lawn = n // 3, n // 3
    angle, radius = rng.uniform(0, 2 * np.pi, n), np.empty(n)
    means = np.empty((n, 3))
    radius[:table] = 0.9 * np.sqrt(rng.uniform(0, 1, table))
    radius[table : table + lawn] = 4.5 * np.sqrt(rng.uniform(0, 1, lawn))
    radius[table + lawn :] = rng.normal(6.0, 1.2, n - table - lawn)
    means[:, 0], means[:, 1] = radius * np.cos(angle), radius * np.sin(angle)
    means[:table, 2] = rng.normal(0.75, 0.12, table)
    means[table : table + lawn, 2] = rng.normal(0, 0.03, lawn)
    means[table + lawn :, 2] = rng.uniform(0, 2.6, n - table - lawn)
    spacing = cKDTree(means).query(means, k=4)[0][:, 1:].mean(1)
    scales = np.repeat(np.minimum(spacing, 0.02)[:, None], 3, 1).astype(np.float32)
    quats = np.zeros((n, 4), np.float32)
    quats[:, 0] = 1
    opacities = np.full(n, 0.8, np.float32)
    colors = rng.uniform(0, 1, (n, 3)).astype(np.float32)
    scene = GaussianScene(means.astype(np.float32), quats, scales, opacities, colors, name="garden")
    return (
        scene,
        look_at(np.array([2.0, -1.0, 1.4]), np.array([0.0, 0, 0.6])),
        pinhole(width, height, 68),
        width,
        height,
    )


@njit(nogil=True, error_model="numpy")
def plain_lists(splats: NDArray[np.float32], width: int, height: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Per tile, the splats whose box touches it, front to back."""
    cols, rows = -(-width // TILE), -(-height // TILE)
    start = np.zeros(cols * rows + 1, np.int64)
    ranks = np.empty(0, np.int32)
    for fill in range(2):
        if fill:
            for t in range(cols * rows):
                start[t + 1] += start[t]
            ranks = np.empty(start[-1], np.int32)
            start = np.concatenate((np.zeros(1, np.int64), start[:-1]))
        for i in range(len(splats)):
            rx, ry = math.ceil(splats[i, EXTENT_X]), math.ceil(splats[i, EXTENT_Y])
            c0, c1 = (
                max(0, int((splats[i, MEAN_X] - rx) // TILE)),
                min(cols, math.ceil((splats[i, MEAN_X] + rx) / TILE)),
            )
            r0, r1 = (
                max(0, int((splats[i, MEAN_Y] - ry) // TILE)),
                min(rows, math.ceil((splats[i, MEAN_Y] + ry) / TILE)),
            )
            for r in range(r0, r1):
                for c in range(c0, c1):
                    if fill:
                        ranks[start[r * cols + c + 1]] = i
                    start[r * cols + c + 1] += 1
    return start, ranks


@njit(nogil=True, error_model="numpy")
def plain_tile_row(
    row: int,
    splats: NDArray[np.float32],
    start: NDArray[np.int64],
    ranks: NDArray[np.int32],
    color: NDArray[np.float32],
    depth: NDArray[np.float32],
    alpha: NDArray[np.float32],
    weights: NDArray[np.float32],
) -> None:
    """Every pixel of one row of tiles walks its tile's list; weights [pairs] takes the sums per (tile, splat)."""
    height, width = alpha.shape
    cols = -(-width // TILE)
    for col in range(cols):
        first, last = start[row * cols + col], start[row * cols + col + 1]
        weights[first:last] = 0
        for y in range(row * TILE, min((row + 1) * TILE, height)):
            for x in range(col * TILE, min((col + 1) * TILE, width)):
                t = np.float32(1)
                r, g, b, z = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                for k in range(first, last):
                    s = splats[ranks[k]]
                    dy = np.float32(y) + np.float32(0.5) - s[MEAN_Y]
                    dx = np.float32(x) + np.float32(0.5) - s[MEAN_X] - dy * s[ROW_SLOPE]
                    sigma = dy * dy * s[ROW_SIGMA] + dx * dx * s[ROW_CURVATURE]
                    a = min(np.float32(0.999), s[OPACITY] * math.exp(-sigma))
                    if a < np.float32(1 / 255):
                        continue
                    after = t * (np.float32(1) - a)
                    if after <= np.float32(1e-4):
                        break
                    w = a * t
                    r += w * s[RED]
                    g += w * s[GREEN]
                    b += w * s[BLUE]
                    z += w * s[DEPTH]
                    weights[k] += w
                    t = after
                color[y, x, 0], color[y, x, 1], color[y, x, 2] = r, g, b
                alpha[y, x] = np.float32(1) - t
                depth[y, x] = z / alpha[y, x] if t < 1 else np.float32(0)


def plain_render(view: View, threads: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(color, weights) by the plain algorithm."""
    scene, viewmat, K, width, height = view
    splats, _ = visible_splats(scene, viewmat, K, width, height, threads)
    start, ranks = plain_lists(splats, width, height)
    color, depth, alpha = (
        np.empty((height, width, 3), np.float32),
        np.empty((height, width), np.float32),
        np.empty((height, width), np.float32),
    )
    weights = np.empty(len(ranks), np.float32)
    run_tasks(
        [
            partial(plain_tile_row, r, splats, start, ranks, color, depth, alpha, weights)
            for r in range(-(-height // TILE))
        ],
        threads,
    )
    return color, weights


def rows() -> list[Row]:
    out = []
    threads = default_threads()
    for name, view in (("rasterise/room-640x480", room_view()), ("rasterise/garden", garden_view())):
        scene, viewmat, K, width, height = view
        render = partial(
            get_backend("cpu").render, scene, viewmat, K, width, height, grid=CellGrid(width, height, TILE)
        )
        ours, plain = render(), plain_render(view, threads)
        assert ours.hits is not None
        different = float((np.abs(ours.color - plain[0]).max(2) > 1e-3).mean())
        if different > 0.01 or abs(float(ours.hits.weights.sum()) / float(plain[1].sum()) - 1) > 1e-3:
            raise AssertionError(f"{name}: the two rasterisers disagree on {different:.2%} of the pixels")
        times = interleaved(render, partial(plain_render, view, threads), repeats=5, clock=time.perf_counter)
        out.append(times.row(name, "s per view", COMMAND, "per-pixel walk of box tile lists, same threads"))
    return out
