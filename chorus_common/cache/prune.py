"""Make a lifting index small before it is stored: drop what cannot be seen in a lifted feature, round the rest.

Half of the entries of a rasterised index carry 0.3 % of its weight (surfaces behind an opaque one, tails of splats).
Figures in docs/design/cache.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from chorus_common.lifting import LiftingIndex

#: Entries are dropped, smallest first, while their sum stays within this share of a Gaussian's weight.
DROPPED_SHARE = 0.02
#: Bits of mantissa kept of a weight: a relative error of at most 2^-5.
MANTISSA_BITS = 4


class PrunedIndex(NamedTuple):
    """CSR arrays as stored, the largest share of a row's weight that was dropped, and the largest relative error of a
    weight that was kept.
    """

    indptr: NDArray[np.int64]
    columns: NDArray[np.int32]
    weights: NDArray[np.float16]
    dropped: float
    rounding: float


def prune_index(
    index: LiftingIndex, dropped_share: float = DROPPED_SHARE, mantissa_bits: int = MANTISSA_BITS
) -> PrunedIndex:
    """`index` without its negligible entries and with rounded fp16 weights. A Gaussian that some view
    sees keeps some.
    """
    keep, dropped = _negligible(index.indptr, index.weights, dropped_share)
    before = np.concatenate([[0], np.cumsum(keep)])
    exact = index.weights[keep]
    weights = round_weights(exact, mantissa_bits)
    # below fp16's normal range the error is absolute
    relative = np.abs(weights - exact.astype(np.float64)) / np.maximum(exact, np.float32(2.0**-14))
    return PrunedIndex(before[index.indptr], index.columns[keep], weights, dropped, float(relative.max(initial=0.0)))


@numba.njit(nogil=True, cache=True)
def _negligible(indptr, weights, share):  # type: ignore[no-untyped-def]
    keep = np.ones(len(weights), np.bool_)
    worst = 0.0
    for row in range(len(indptr) - 1):
        begin, end = indptr[row], indptr[row + 1]
        total = 0.0
        for e in range(begin, end):
            total += np.float64(weights[e])
        dropped = 0.0
        for e in np.argsort(weights[begin:end], kind="mergesort"):
            if dropped + np.float64(weights[begin + e]) > share * total:
                break
            dropped += np.float64(weights[begin + e])
            keep[begin + e] = False
        if total > 0.0:
            worst = max(worst, dropped / total)
    return keep, worst


def round_weights(weights: NDArray[np.floating], mantissa_bits: int) -> NDArray[np.float16]:
    """fp16 weights rounded to `mantissa_bits` (ties away from zero), so that the shuffled zero bits compress to
    nothing.

    Relative error at most 2^-(mantissa_bits + 1) within fp16's normal range (6e-5 to 65504). Weights that would become
    0 get the smallest kept value: a Gaussian that was seen stays seen.
    """
    drop = 10 - mantissa_bits
    half = np.minimum(np.asarray(weights, np.float32), 65504.0).astype("<f2")
    bits: NDArray[np.integer] = half.view("<u2").astype(np.int64)
    bits = (bits + (1 << drop >> 1)) >> drop << drop
    bits = np.where((bits == 0) & (np.asarray(weights) > 0), 1 << drop, bits)
    return np.minimum(bits, 0x7BFF >> drop << drop).astype("<u2").view(np.float16)
