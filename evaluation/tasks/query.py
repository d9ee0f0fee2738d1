"""One scene, one text: how relevant each Gaussian is, and which objects answer best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from chorus_common.scene import GaussianScene
from evaluation.boxes import oriented_box
from evaluation.features import SceneFeatures
from evaluation.neighbours import nearest_gaussians
from evaluation.proposals.merged_masks import MergeConfig, MergedMasks
from evaluation.proposals.proposals import rows_to_masks
from evaluation.relevancy import HOT, relevancy, scene_relevancy
from evaluation.scenes import LoadedScene
from evaluation.targets import open_target
from evaluation.tasks.instances import pool_features

F32 = NDArray[np.float32]

#: Relevancies as near as this to the best one answer alike; of two objects that share more than this of the smaller
#: one, only the better one is listed.
ALIKE, SHARED = 0.02, 0.5
#: Neighbours that connect hot Gaussians, and the smallest cluster of them that counts as an object.
_NEIGHBOURS, _MIN_CLUSTER = 8, 20


@dataclass(frozen=True)
class Answer:
    """relevancy [N] in (0, 1); the best objects, best first; masks [P, N] of these objects; where they come from."""

    relevancy: F32
    objects: tuple[dict[str, Any], ...]
    masks: sparse.csr_matrix
    origin: str

    def ranks(self) -> NDArray[np.int32]:
        """[N] rank of the best object that a Gaussian belongs to, -1 = none."""
        best = np.full(self.masks.shape[1], -1, dtype=np.int32)
        for rank in reversed(range(self.masks.shape[0])):
            best[self.masks.indices[self.masks.indptr[rank] : self.masks.indptr[rank + 1]]] = rank
        return best


def answer(
    scene: LoadedScene,
    features: SceneFeatures,
    query: F32,
    negatives: F32,
    *,
    top: int = 5,
    threshold: float | None = None,
) -> Answer:
    """Answer one query (unit row [1, C]).

    Objects are the merged 2D masks where the scene's cache has a mask teacher, ranked by the relevancy of their pooled
    feature; otherwise connected clusters of Gaussians with relevancy above 0.5, ranked by their mean relevancy. Of
    objects that answer alike the larger comes first, and parts of what is listed are not listed. No ground truth is
    looked at. threshold: relevancy above which a Gaussian, or a mask, answers; None: 0.5 for Gaussians,
    any for masks.
    """
    gaussians = scene.gaussians
    heat = scene_relevancy(features, len(gaussians), query, negatives)[:, 0]
    if scene.cache is not None and len(scene.cache.mask_teachers) == 1:
        origin = "masks"
        target = open_target(scene, "gaussians", gaussians.label_space)
        masks = MergedMasks(MergeConfig()).open(target).on_gaussians
        pooled = pool_features(features, len(gaussians), masks)
        scores = relevancy(pooled, query, negatives)[:, 0]
    else:
        origin = "clusters"
        rows = hot_clusters(gaussians, heat, HOT if threshold is None else threshold)
        masks = rows_to_masks(rows, len(gaussians))
        scores = np.array([float(heat[row].mean()) for row in rows])
    order = distinct(masks, scores, top, -np.inf if threshold is None else threshold)
    objects = tuple(_describe(scene, masks, int(i), float(scores[i])) for i in order)
    return Answer(heat, objects, masks[order], origin)


def distinct(masks: sparse.csr_matrix, scores: NDArray[np.floating], top: int, threshold: float) -> NDArray[np.int64]:
    """Rows of `masks` [P, N] with scores [P] above `threshold`, best first, at most `top`.

    Masks of one thing come in several sizes: of scores that are alike the largest comes first, and a mask is left out
    that shares most of its Gaussians, or of the other's, with one that is chosen.
    """
    sizes = np.diff(masks.indptr)
    left = scores > threshold
    chosen: list[int] = []
    while left.any() and len(chosen) < top:
        alike = np.flatnonzero(left & (scores >= scores[left].max() - ALIKE))
        row = int(alike[np.argmax(sizes[alike])])
        shared = (masks.astype(np.int32) @ masks[row].astype(np.int32).T).toarray()[:, 0]
        left &= shared <= SHARED * np.minimum(sizes, sizes[row])
        left[row] = False
        chosen.append(row)
    return np.array(chosen, dtype=np.int64)


def hot_clusters(scene: GaussianScene, heat: F32, threshold: float = HOT) -> list[NDArray[np.int64]]:
    """Connected sets of Gaussians with relevancy above `threshold`: neighbours (8 nearest hot ones) that are nearer
    than four times the median distance to the nearest one.
    """
    hot = np.flatnonzero(heat > threshold)
    if len(hot) < _MIN_CLUSTER:
        return []
    means = scene.means[hot].astype(np.float64)
    near = nearest_gaussians(means, means, _NEIGHBOURS + 1)
    distance = np.linalg.norm(means[near] - means[:, None], axis=2)
    linked = distance <= 4 * max(float(np.median(distance[:, 1])), 1e-6)
    rows = np.repeat(np.arange(len(hot)), near.shape[1])[linked.reshape(-1)]
    graph = sparse.csr_matrix((np.ones(len(rows)), (rows, near[linked])), shape=(len(hot), len(hot)))
    n, label = connected_components(graph, directed=False)
    sizes = np.bincount(label, minlength=n)
    return [hot[label == c] for c in np.flatnonzero(sizes >= _MIN_CLUSTER)]


def _describe(scene: LoadedScene, masks: sparse.csr_matrix, row: int, score: float) -> dict[str, Any]:
    """An object for JSON: in metres in the upright frame, and as centre and oriented box in the frame of the file."""
    members = masks.indices[masks.indptr[row] : masks.indptr[row + 1]]
    means = scene.gaussians.means[members].astype(np.float64)
    return {
        "relevancy": score,
        "n_gaussians": len(members),
        "centre_m": [round(float(x), 4) for x in means.mean(axis=0)],
        "low_m": [round(float(x), 4) for x in means.min(axis=0)],
        "high_m": [round(float(x), 4) for x in means.max(axis=0)],
        "centre": np.round(scene.alignment.points_back(means.mean(axis=0)[None])[0], 6).tolist(),
        "box": oriented_box(means).in_file(scene.alignment).as_dict(),
    }
