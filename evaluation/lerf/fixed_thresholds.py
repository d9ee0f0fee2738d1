"""LERF as the released Chorus scores it: the Gaussians whose relevancy exceeds a fixed threshold are drawn as a mask.

Nothing is stretched to the range of a map and nothing is smoothed, so an absent query can be answered by an empty mask.
The release says that selected Gaussians are rendered to a mask. How much of a pixel they must cover is our choice: half
of it, drawn alone, so that an answer behind a wall counts as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet
from chorus_common.rasterize import render_values
from chorus_common.scene import GaussianScene
from evaluation.lerf.protocol import AskedScene
from evaluation.lerf.scores import iou

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

#: Relevancy above which a Gaussian answers, as the released Chorus tabulates it.
RELEASE_THRESHOLDS = (0.20, 0.30, 0.40, 0.50, 0.60, 0.80)


def coverage_mask(scene: GaussianScene, selected: Bool, cameras: CameraSet, row: int, width: int, height: int) -> Bool:
    """[H, W] pixels of which the `selected` [N] Gaussians, drawn alone, cover at least half."""
    if not selected.any():
        return np.zeros((height, width), np.bool_)
    part = scene.select(selected)
    nothing = np.zeros((len(part), 0), np.float32)
    own = cameras.resized(width, height)
    _, alpha = render_values(part, own.viewmats[row], own.intrinsics[row], width, height, nothing)
    return alpha >= 0.5


def score_thresholds(asked: AskedScene) -> dict[str, F64]:
    """query -> mean IoU over its frames, [T] at each of `RELEASE_THRESHOLDS`."""
    found: dict[str, list[list[float]]] = {}
    answers: dict[str, F32] = {}
    for frame in asked.frames:
        for query in frame.queries:
            if query.text not in answers:
                answers[query.text] = asked.answer.of_gaussians(query.text)
            heat, row = answers[query.text], asked.views[frame.name]
            masks = [
                coverage_mask(asked.gaussians, heat > t, asked.cameras, row, frame.width, frame.height)
                for t in RELEASE_THRESHOLDS
            ]
            found.setdefault(query.text, []).append([iou(mask, query.mask) for mask in masks])
    return {text: np.mean(values, axis=0) for text, values in found.items()}


def summarise_thresholds(scenes: Mapping[str, Mapping[str, F64]]) -> dict[str, Any]:
    """Per threshold: mean over scenes of the mean over queries, and both parts."""
    rows = {}
    for i, threshold in enumerate(RELEASE_THRESHOLDS):
        queries = {name: {text: float(v[i]) for text, v in found.items()} for name, found in scenes.items()}
        per_scene = {name: float(np.mean(list(values.values()))) for name, values in queries.items()}
        rows[f"{threshold:.2f}"] = {
            "miou": float(np.mean(list(per_scene.values()))), "scenes": per_scene, "queries": queries,
        }  # fmt: skip
    return rows
