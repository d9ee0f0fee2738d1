"""Masks of many views merged into objects: agglomeration on their overlap graph.

Two masks overlap by what both views see: C = Gaussians that lie in both, U = Gaussians that lie in one of them and are
seen by both views. Counts of groups of masks are sums of counts of their pairs, so the overlap of two groups, sum C /
sum U, is an average over all their pairs of views, weighted by how much these share. Two masks of one view have C = 0 <
U and speak against a merge: that keeps one bad mask from joining two objects for good. The pair of groups with the
greatest overlap is merged until none is above `threshold` (average linkage). All counts are integers and equal overlaps
go to the lowest mask numbers, so the result depends on nothing else.

Related: MaskClustering (Yan et al., CVPR 2024) clusters masks by view consensus; SAM3D (Yang et al. 2023) merges frame
by frame.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from evaluation.proposals.observations import UNSEEN, Observations

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


def overlap_counts(observations: Observations) -> tuple[I64, I64]:
    """(C, U) [Q, Q] of all pairs of masks, 0 on the diagonal."""
    mask = observations.mask
    n, n_masks = len(mask), observations.n_masks
    rows, views = np.nonzero(mask >= 0)
    member = sparse.csr_matrix((np.ones(len(rows), np.int64), (rows, mask[rows, views])), shape=(n, n_masks))
    both = np.asarray((member.T @ member).todense())  # [Q, Q]
    seen = sparse.csr_matrix((mask != UNSEEN).astype(np.int64))
    visible = np.asarray((member.T @ seen).todense())  # [Q, V] Gaussians of a mask that view v sees
    view_of = np.repeat(np.arange(mask.shape[1]), np.diff(observations.offsets))
    in_view = visible[:, view_of]  # [Q, Q]
    either = in_view + in_view.T - both
    np.fill_diagonal(both, 0)
    np.fill_diagonal(either, 0)
    return both, either


def merge_masks(observations: Observations, *, threshold: float, min_size: int) -> I32:
    """Group [Q] of every mask, numbered by the first mask of each; -1 for masks of fewer than `min_size` Gaussians."""
    both, either = overlap_counts(observations)
    sizes = np.bincount(observations.mask[observations.mask >= 0], minlength=observations.n_masks)
    alive = sizes >= min_size
    group = np.where(alive, np.arange(len(sizes)), -1).astype(np.int32)
    both[~alive], both[:, ~alive] = 0, 0
    _agglomerate(both, either, group, threshold)
    return group


@njit(cache=True, nogil=True)
def _best(both, either, a):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """The mask with the greatest overlap with `a`, and that overlap; the first of several."""
    at, top = -1, 0.0
    for b in range(both.shape[0]):
        if both[a, b] > 0:
            overlap = both[a, b] / either[a, b]
            if overlap > top:
                at, top = b, overlap
    return at, top


@njit(cache=True, nogil=True)
def _agglomerate(both, either, group, threshold):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Merge in place: `group` [Q] ends with the lowest mask number of each group."""
    q = both.shape[0]
    partner, value = np.full(q, -1), np.zeros(q)
    for a in range(q):
        partner[a], value[a] = _best(both, either, a)
    while True:
        a, top = -1, threshold
        for i in range(q):
            if value[i] > top:
                a, top = i, value[i]
        if a < 0:
            return
        b = partner[a]
        a, b = min(a, b), max(a, b)
        for i in range(q):
            if group[i] == b:
                group[i] = a
        for i in range(q):
            both[a, i] += both[b, i]
            either[a, i] += either[b, i]
            both[i, a], either[i, a] = both[a, i], either[a, i]
        both[a, a], either[a, a] = 0, 0
        for i in range(q):
            both[b, i], both[i, b], either[b, i], either[i, b] = 0, 0, 0, 0
        partner[b], value[b] = -1, 0.0
        partner[a], value[a] = _best(both, either, a)
        for i in range(q):
            if i != a and value[i] > 0.0:
                if partner[i] == a or partner[i] == b:
                    partner[i], value[i] = _best(both, either, i)
                elif both[i, a] > 0:
                    overlap = both[i, a] / either[i, a]
                    if overlap > value[i] or (overlap == value[i] and a < partner[i]):
                        partner[i], value[i] = a, overlap
