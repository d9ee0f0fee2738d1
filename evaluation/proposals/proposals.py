"""Class-agnostic proposals: masks that may be objects, whatever made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from evaluation.targets import EvalTarget


@dataclass(frozen=True, eq=False)
class Proposals:
    """P masks of one scene.

    on_target [P, M] bool CSR over the target's places, which is what is scored; on_gaussians [P, N] over the scene's
    Gaussians, over which features are pooled; scores [P] f64 in [0, 1].
    """

    on_target: sparse.csr_matrix
    on_gaussians: sparse.csr_matrix
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)


class ProposalSource(Protocol):
    """Something that has proposals for scenes. `oracle`: it looks at ground truth. `origin`: its name in results."""

    @property
    def origin(self) -> str: ...

    @property
    def oracle(self) -> bool: ...

    def open(self, target: EvalTarget) -> Proposals:
        """Proposals for the scene of `target`; ChorusError where there are none to be had."""
        ...


def rows_to_masks(rows: Sequence[NDArray[np.integer]], n: int) -> sparse.csr_matrix:
    """[P, n] bool CSR from P arrays of ascending indices."""
    indptr = np.cumsum([0] + [len(row) for row in rows])
    indices = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    return sparse.csr_matrix((np.ones(len(indices), bool), indices, indptr), shape=(len(rows), n))
