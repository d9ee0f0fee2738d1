"""Stratified sampling of patches: rows along v, evenly spaced points along each row, jittered within their cell.

Rows are cut by arc length and every row gets as many points as its own length asks for, so that density is even on
discs, bowls and folds too. All patches are done at once with flat arrays; the result depends on the patches and the
generator only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_manifests.synthetic.shapes import Patch

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


#: Where only one, two or three Gaussians lie side by side, smaller ones keep the edges of the surface sharp.
NARROW = np.array([1.0, 0.6, 0.76, 0.88, 1.0])


@dataclass(frozen=True, eq=False)
class Samples:
    """K surface points. point, tangent, normal [K, 3] (unit vectors); step [K, 2] sample spacing along tangent and
    across it in metres;
    uv [K, 2] metres along the patch; unit [K, 2] the same as a share of the patch; patch [K] index, ascending."""

    point: F64
    tangent: F64
    normal: F64
    step: F64
    uv: F64
    unit: F64
    patch: I64


@dataclass(frozen=True, eq=False)
class Soup:
    """Patches laid out flat, with the arc length of their rows of the grid."""

    nodes: F64  # [sum m*n, 3]
    start: I64  # [P] first node
    m: I64  # [P] rows
    n: I64  # [P] columns
    v_nodes: F64  # [sum m] arc length along v at each grid row, counted on through all patches
    v_start: I64  # [P] first entry in v_nodes

    @classmethod
    def build(cls, patches: list[Patch]) -> Soup:
        m = np.array([p.shape[0] for p in patches], dtype=np.int64)
        n = np.array([p.shape[1] for p in patches], dtype=np.int64)
        nodes = np.concatenate([p.reshape(-1, 3) for p in patches])
        steps = [np.concatenate([[0.0], np.linalg.norm(np.diff(p, axis=0), axis=-1).mean(axis=1)]) for p in patches]
        return cls(nodes, _starts(m * n), m, n, np.cumsum(np.concatenate(steps)), _starts(m))

    @property
    def heights(self) -> F64:
        """Mean arc length along v of each patch, [P] metres."""
        return self.v_nodes[self.v_start + self.m - 1] - self.v_nodes[self.v_start]

    def bracket(self, patch: I64, s: F64) -> tuple[I64, F64]:
        """Grid row below arc length `s` [K] of `patch` [K], and the fraction towards the next."""
        target = self.v_nodes[self.v_start[patch]] + s
        row = np.searchsorted(self.v_nodes, target, side="right") - 1 - self.v_start[patch]
        row = np.clip(row, 0, self.m[patch] - 2)
        low = self.v_nodes[self.v_start[patch] + row]
        high = self.v_nodes[self.v_start[patch] + row + 1]
        return row, np.clip((target - low) / np.maximum(high - low, 1e-12), 0, 1)

    def at(self, patch: I64, row: I64, fv: F64, column: I64) -> F64:
        """Points [K, 3] on grid column `column`, between grid rows `row` and `row` + 1."""
        index = self.start[patch] + row * self.n[patch] + column
        return self.nodes[index] * (1 - fv)[:, None] + self.nodes[index + self.n[patch]] * fv[:, None]


def _starts(counts: I64) -> I64:
    return np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)


def _expand(counts: I64) -> tuple[I64, I64]:
    """For counts [A]: owner [sum] and position within the owner [sum]."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - _starts(counts)[owner]


@dataclass(frozen=True, eq=False)
class _Rows:
    patch: I64
    index: I64  # row number within the patch
    height: F64  # distance between rows
    cumulative: F64  # arc length along u at every node of every row, counted on through all rows
    first: I64  # [R] first entry in `cumulative`
    length: F64  # [R]
    count: I64  # [R] points in this row
    closed: NDArray[np.bool_]  # [R] the row runs round something


def _rows(soup: Soup, spacing: F64) -> _Rows:
    total = soup.heights
    n_rows = np.maximum(1, np.rint(total / spacing)).astype(np.int64)
    patch, index = _expand(n_rows)
    height = (total / n_rows)[patch]
    row, fv = soup.bracket(patch, (index + 0.5) * height)
    owner, column = _expand(soup.n[patch])
    points = soup.at(patch[owner], row[owner], fv[owner], column)
    step = np.zeros(len(points))
    step[1:] = np.linalg.norm(np.diff(points, axis=0), axis=1)
    step[column == 0] = 0.0
    first = _starts(soup.n[patch])
    cumulative = np.cumsum(step)
    length = cumulative[first + soup.n[patch] - 1] - cumulative[first]
    ends = soup.start[patch] + row * soup.n[patch]
    closed = np.linalg.norm(soup.nodes[ends] - soup.nodes[ends + soup.n[patch] - 1], axis=1) < 1e-9
    closed &= length > 1e-9  # a round bar needs four sides, however thin
    count = np.maximum(np.where(closed, 4, 1), np.rint(length / spacing[patch])).astype(np.int64)
    return _Rows(patch, index, height, cumulative, first, length, count, closed)


def count_samples(soup: Soup, spacing: F64) -> int:
    """How many points `sample` would make."""
    return int(_rows(soup, spacing).count.sum())


def sample(soup: Soup, spacing: F64, rng: np.random.Generator, jitter: float = 0.45) -> Samples:
    """Points on all patches, `spacing` [P] metres apart; `jitter` is the range of the random shift as a share of the
    cell.
    """
    rows = _rows(soup, spacing)
    owner, k = _expand(rows.count)
    patch = rows.patch[owner]
    n_rows = np.bincount(rows.patch, minlength=len(soup.m))[patch]
    counts = np.stack([rows.count[owner], n_rows], axis=1)  # along the row, across the rows
    noise = (rng.random((len(owner), 2)) - 0.5) * np.where(counts > 1, jitter, 0.0)
    s = (rows.index[owner] + 0.5 + noise[:, 1]) * rows.height[owner]
    along = (k + 0.5 + noise[:, 0]) / rows.count[owner]
    target = rows.cumulative[rows.first[owner]] + along * rows.length[owner]
    column = np.searchsorted(rows.cumulative, target, side="right") - 1 - rows.first[owner]
    column = np.clip(column, 0, soup.n[patch] - 2)
    low = rows.cumulative[rows.first[owner] + column]
    high = rows.cumulative[rows.first[owner] + column + 1]
    fu = np.clip((target - low) / np.maximum(high - low, 1e-12), 0, 1)
    row, fv = soup.bracket(patch, s)
    left, right = soup.at(patch, row, fv, column), soup.at(patch, row, fv, column + 1)
    point = left + fu[:, None] * (right - left)
    du = right - left
    zero = np.zeros(len(patch))
    below = soup.at(patch, row, zero, column) * (1 - fu)[:, None] + soup.at(patch, row, zero, column + 1) * fu[:, None]
    above = (
        soup.at(patch, row, zero + 1, column) * (1 - fu)[:, None]
        + soup.at(patch, row, zero + 1, column + 1) * fu[:, None]
    )
    normal = np.cross(du, above - below)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    tangent = du / np.maximum(np.linalg.norm(du, axis=1, keepdims=True), 1e-12)
    across = rows.length[owner] / rows.count[owner]
    # on a thin round bar a flat Gaussian must not reach past the radius: 2 pi r of circumference allows about 0.9 r
    across = np.where(rows.closed[owner], np.minimum(across, 0.9 * rows.length[owner] / (2 * np.pi)), across)
    step = np.stack([across, rows.height[owner]], axis=1) * NARROW[np.minimum(counts, len(NARROW) - 1)]
    uv = np.stack([along * rows.length[owner], s], axis=1)
    unit = np.stack([along, s / np.maximum(soup.heights[patch], 1e-12)], axis=1)
    return Samples(point, tangent, normal, step, uv, unit, patch)
