"""Proposals from files in ScanNet's submission format, such as Mask3D writes; their classes are not looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chorus_common.runtime.errors import SceneError
from evaluation.predictions.instance_masks import read_instances
from evaluation.proposals.proposals import Proposals
from evaluation.targets import EvalTarget


@dataclass(frozen=True)
class ProposalFiles:
    """`<folder>/<data set>/<scene id>.txt` or `<folder>/<scene id>.txt`; one line per place of the scored file."""

    folder: Path
    origin: str = "file"
    oracle: bool = False

    def open(self, target: EvalTarget) -> Proposals:
        """Raises SceneError for a missing file, masks of another length, or confidences outside [0, 1]."""
        where = target.scene.where
        name = f"{where.scene_id}.txt"
        paths = [self.folder / where.dataset / name, self.folder / name]
        path = next((p for p in paths if p.is_file()), None)
        if path is None:
            raise SceneError(f"{where.name}: neither {paths[0]} nor {paths[1]} exists")
        rows = target.file_rows
        n_file = target.n_file_rows
        found = read_instances(path, n_file, where.name)
        if len(found.scores) and (found.scores.min() < 0 or found.scores.max() > 1):
            raise SceneError(f"{where.name}: {path}: confidences must lie in [0, 1]")
        on_target = found.masks[:, rows].tocsr()
        on_target.sort_indices()
        return Proposals(on_target, target.to_gaussians(on_target), found.scores.astype(np.float64))
