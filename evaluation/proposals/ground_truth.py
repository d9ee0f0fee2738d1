"""Ground-truth instances as proposals: an oracle, for telling what the features do from what the masks do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.proposals.proposals import Proposals, rows_to_masks
from evaluation.run_scenes import NoGroundTruthError
from evaluation.targets import EvalTarget


@dataclass(frozen=True)
class GroundTruthProposals:
    """The annotated instances, each with score 1."""

    origin: str = "ground truth"
    oracle: bool = True

    def open(self, target: EvalTarget) -> Proposals:
        """Raises NoGroundTruthError where the scene has no instances."""
        if target.instances is None:
            raise NoGroundTruthError("no ground-truth instances")
        ids = np.unique(target.instances[target.instances >= 0])
        on_target = rows_to_masks([np.flatnonzero(target.instances == i) for i in ids], len(target))
        return Proposals(on_target, target.to_gaussians(on_target), np.ones(len(ids)))
