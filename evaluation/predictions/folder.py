"""Where predictions are written: a folder per row of a result and data set, each ready to be submitted.

<root>/<row>/<data set>/semantic/<scene id>.txt
<root>/<row>/<data set>/instances/<scene id>.txt, predicted_masks/
<root>/<row>/<data set>/ply/<scene id>_<what>.ply
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from evaluation.predictions.coloured_file import write_coloured_file
from evaluation.predictions.coloured_ply import write_coloured_ply
from evaluation.predictions.ids import benchmark_ids
from evaluation.predictions.instance_masks import write_instances
from evaluation.predictions.semantic_text import write_semantic_text
from evaluation.report.colours import class_palette
from evaluation.scenes import EvalScene
from evaluation.targets import EvalTarget


@dataclass(frozen=True)
class PredictionFolder:
    """Writes what a task predicts for one scene."""

    root: Path
    label_space: str
    class_names: tuple[str, ...]

    def _folder(self, row: str, where: EvalScene) -> Path:
        return self.root / row.replace(" + ", "+").replace(" ", "-") / where.dataset

    def semantic(self, row: str, target: EvalTarget, classes: NDArray[np.int32]) -> None:
        """Classes [M] of the target's places (-1 = none): the official text and a coloured .ply."""
        where = target.scene.where
        folder = self._folder(row, where)
        in_file = target.in_file_order(classes)
        write_semantic_text(folder / "semantic" / f"{where.scene_id}.txt", in_file, self.label_space)
        ids = benchmark_ids(self.label_space).astype(np.int32)[classes]
        self._coloured(
            folder / "ply" / f"{where.scene_id}_semantic.ply",
            target,
            class_palette(self.class_names)[classes],
            {"predicted_id": ids},
        )

    def instances(
        self,
        row: str,
        target: EvalTarget,
        masks: sparse.csr_matrix,
        labels: NDArray[np.integer],
        scores: NDArray[np.floating],
    ) -> None:
        """Masks [P, M] over the target's places with classes [P] and scores [P]: the official files and a .ply in which
        each place has the colour of its best mask.
        """
        where = target.scene.where
        folder = self._folder(row, where)
        write_instances(
            folder / "instances", where.scene_id, _file_columns(masks, target), benchmark_ids(self.label_space)[labels],
            scores,
        )  # fmt: skip
        best = np.full(len(target), -1, dtype=np.int32)
        for p in np.argsort(scores, kind="stable"):
            best[masks.indices[masks.indptr[p] : masks.indptr[p + 1]]] = p
        palette = class_palette(tuple(f"instance {i}" for i in range(masks.shape[0])))
        label = np.append(np.asarray(labels, np.int32), -1)[best]
        ids = benchmark_ids(self.label_space).astype(np.int32)[label]
        self._coloured(
            folder / "ply" / f"{where.scene_id}_instances.ply",
            target,
            palette[best],
            {"predicted_instance": best, "predicted_id": ids},
        )

    def _coloured(
        self, path: Path, target: EvalTarget, colors: NDArray[np.floating], numbers: dict[str, NDArray[np.int32]]
    ) -> None:
        """A .ply in the order and the frame of the file that the places came from."""
        if not target.points:
            write_coloured_file(path, target.scene, colors, numbers)
            return
        write_coloured_ply(path, target.scene.alignment.points_back(target.coord), colors, numbers)


def _file_columns(masks: sparse.csr_matrix, target: EvalTarget) -> sparse.csr_matrix:
    """The masks with their columns in the order of the file that the places came from."""
    ordered = sparse.csr_matrix(
        (masks.data, target.file_rows[masks.indices], masks.indptr), shape=(masks.shape[0], target.n_file_rows)
    )
    ordered.sort_indices()
    return ordered
