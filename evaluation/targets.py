"""What a scene is scored on: its Gaussians, or the points of a labelled cloud beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.labels import LABEL_SPACES
from chorus_common.runtime.errors import SceneError
from evaluation.neighbours import nearest_gaussians, neighbour_vote
from evaluation.point_truth import point_truth
from evaluation.run_scenes import NoGroundTruthError
from evaluation.scenes import LoadedScene

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

TargetKind = Literal["gaussians", "points"]


@dataclass(frozen=True, eq=False)
class EvalTarget:
    """M places with ground truth, and how predictions for the scene's N Gaussians get there.

    coord [M, 3] f32 metres; labels, instances [M] i32 (-1 = none) or None.
    points: whether the places are points of their own (k nearest Gaussians vote) or the Gaussians themselves.
    """

    scene: LoadedScene
    coord: F32
    labels: I32 | None
    instances: I32 | None
    points: bool
    k: int

    def __len__(self) -> int:
        return len(self.coord)

    @property
    def has_truth(self) -> bool:
        return self.labels is not None and bool((self.labels >= 0).any())

    @cached_property
    def _table(self) -> I32:
        """[M, k] nearest Gaussians of every point."""
        return nearest_gaussians(self.scene.gaussians.means, self.coord, self.k)

    def classes(self, predictions: I32, n_classes: int) -> I32:
        """[M] classes of the places from those of the Gaussians [N] (-1 = none); see `neighbour_vote`."""
        if not self.points:
            return predictions
        means = self.scene.gaussians.means
        table = self._table if (predictions >= 0).all() else None
        return neighbour_vote(means, predictions, self.coord, n_classes, k=self.k, table=table)

    def masks(self, masks: sparse.csr_matrix) -> sparse.csr_matrix:
        """[P, M] masks over the places from [P, N] over the Gaussians: a point belongs to the masks of its nearest
        Gaussian (Pointcept's transfer of instances, engines/hooks/evaluator.py).
        """
        if not self.points:
            return masks
        return _columns(masks, self._table[:, 0])

    def to_gaussians(self, masks: sparse.csr_matrix) -> sparse.csr_matrix:
        """[P, N] masks over the scene's Gaussians from [P, M] over the places: a Gaussian belongs to the masks of its
        nearest point.
        """
        if not self.points:
            return masks
        nearest = nearest_gaussians(self.coord, self.scene.gaussians.means, 1)[:, 0]
        return _columns(masks, nearest)

    @property
    def n_file_rows(self) -> int:
        """Rows of the file that the places came from."""
        return len(self.coord) if self.points else self.scene.gaussians.source_rows

    @property
    def file_rows(self) -> NDArray[np.int64]:
        """[M] row of each place in that file."""
        return np.arange(len(self.coord)) if self.points else self.scene.gaussians.source_ids

    def in_file_order(self, values: NDArray[np.integer], missing: int = -1) -> NDArray[np.integer]:
        """[M] values in the order of the file that the places came from (the cloud's, or the scene's source)."""
        return values if self.points else self.scene.in_source_order(values, missing)


def _columns(masks: sparse.csr_matrix, nearest: I32) -> sparse.csr_matrix:
    """[P, len(nearest)]: column j is column nearest[j] of `masks`."""
    gather = sparse.csr_matrix(
        (np.ones(len(nearest), np.int32), (nearest, np.arange(len(nearest)))), shape=(masks.shape[1], len(nearest))
    )
    carried = (masks.astype(np.int32) @ gather).astype(bool).tocsr()
    carried.sort_indices()
    return carried


def check_labels(labels: I32 | None, label_space: str, who: str) -> None:
    """Raises SceneError for labels that are no class of `label_space`: they must not pass for unlabelled."""
    k = len(LABEL_SPACES.get(label_space, ()))
    if labels is not None and k and len(labels) and (labels.min() < -1 or labels.max() >= k):
        wrong = int(labels.min()) if labels.min() < -1 else int(labels.max())
        raise SceneError(f"{who}: ground truth {wrong} is outside the label space of {k} classes ({label_space})")


def open_target(scene: LoadedScene, kind: TargetKind, label_space: str, *, k: int = 25) -> EvalTarget:
    """The places to score in `scene`.

    Raises NoGroundTruthError where `kind` is "points" and no cloud lies beside the source, SceneError for a damaged
    one or labels outside `label_space`.
    """
    gaussians = scene.gaussians
    if kind == "gaussians":
        check_labels(gaussians.labels, label_space or gaussians.label_space, scene.name)
        return EvalTarget(scene, gaussians.means, gaussians.labels, gaussians.instances, False, k)
    cloud = point_truth(scene, label_space)
    if cloud is None:
        raise NoGroundTruthError("no ground truth: no pc_coord.npy beside the source")
    coord = np.asarray(scene.alignment.points(cloud.coord), dtype=np.float32)
    return EvalTarget(scene, coord, cloud.labels, cloud.instances, True, k)
