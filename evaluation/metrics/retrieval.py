"""How well queries find their answer in a gallery: ranks by cosine, and sums of figures that add up over scenes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: recall@1 and mean average precision with the one right answer, and with all of the right class.
FIGURES = ("recall_at_1", "map", "class_recall_at_1", "class_map")


@dataclass(frozen=True)
class QuerySums:
    """Figures of n queries, added up: sums [4] in the order of `FIGURES`."""

    n: int
    sums: tuple[float, ...]

    @staticmethod
    def of(figures: F64) -> QuerySums:
        """The sums of figures [Q, 4]."""
        return QuerySums(len(figures), tuple(figures.sum(axis=0).tolist()))


def mean_figures(parts: Iterable[QuerySums]) -> dict[str, float | None]:
    """The means over all queries of all parts, None without a query, and "n_queries"."""
    held = list(parts)
    n = sum(part.n for part in held)
    totals = np.sum([part.sums for part in held], axis=0) if n else None
    means = [None] * len(FIGURES) if totals is None else (totals / n).tolist()
    return {**dict(zip(FIGURES, means)), "n_queries": n}


def rank(queries: F64, gallery: F64, right: I64, classes: I64) -> F64:
    """[Q, 4] recall@1, AP, class recall@1 and class AP of every query.

    queries [Q, C], gallery [G, C] (any length; zeros are nobody's neighbour), right [Q] rows of the gallery,
    classes [G].
    """
    cosine = _unit(queries) @ _unit(gallery).T
    # Rounding must not decide between equal answers: they are tied on purpose, and ties count against the query.
    cosine = np.round(cosine, 9)
    figures = np.empty((len(queries), len(FIGURES)))
    for q, target in enumerate(right):
        own = cosine[q, target]
        position = int((cosine[q] >= own).sum())
        same = classes == classes[target]
        # Within a tie, other classes come first.
        order = np.lexsort((same, -cosine[q]))
        hits = same[order]
        precision = np.cumsum(hits) / np.arange(1, len(order) + 1)
        figures[q] = position == 1, 1 / position, hits[0], precision[hits].mean()
    return figures


def _unit(rows: F64) -> F64:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
