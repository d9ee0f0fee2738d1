"""What in a scene is like a place in it, or like a picture: LERF's relevancy with other things to compare with.

A text is compared with canonical phrases. Features of places and pictures are nearer to one another than to any text,
so they are compared with what else the scene shows: its typical features, the centres of a spherical k-means in which
the query is one of the centres and stays where it is. Above one half thus means: more like the query than like anything
else that is typical of the scene.

A picture's vector lies a little apart from all of the scene's features: other light, other framing, no lifting. It is
asked for through the Gaussians that are most like it, as query expansion does for pictures (Chum et al. 2007, "Total
Recall").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import ConfigError
from evaluation.features import PASS, SceneFeatures
from evaluation.label import spacing
from evaluation.neighbours import nearest_gaussians
from evaluation.scenes import LoadedScene

F32 = NDArray[np.float32]

#: Gaussians of a place, how far from the nearest one they may lie in the scene's spacings, and how far off the place
#: itself may be, in metres.
_NEAR, _REACH, _FARTHEST = 16, 4.0, 0.5
#: Typical features of a scene, about how many Gaussians they are found from, in runs of so many, and rounds of k-means.
_CENTRES, _SAMPLE, _RUN, _ROUNDS = 16, 20_000, 32, 10
#: Share of a scene's Gaussians that stand for a picture, and their least number.
_SHARE, _FEWEST = 0.005, 16


def feature_at(scene: LoadedScene, features: SceneFeatures, place: NDArray[np.floating]) -> F32:
    """Unit row [1, C]: the mean unit feature of the Gaussians around `place` [3], in the frame of the file, weighted by
    their opacity.

    Raises ConfigError, one line, where no Gaussian lies near or none of them has a feature.
    """
    gaussians = scene.gaussians
    there = scene.alignment.points(np.asarray(place, dtype=np.float64)[None])
    near = nearest_gaussians(gaussians.means, there, _NEAR)[0]
    offset = gaussians.means[near].astype(np.float64)
    if np.linalg.norm(offset[0] - there[0]) > _FARTHEST:
        x, y, z = scene.alignment.points_back(offset[:1])[0]
        raise ConfigError(
            f"--like-point: no Gaussian within {_FARTHEST} m; the nearest lies at {x:.2f},{y:.2f},{z:.2f}"
        )
    apart = np.linalg.norm(offset - offset[0], axis=1)
    near = near[apart <= _REACH * spacing(gaussians.means)]
    rows = _unit(np.concatenate([features.rows(int(row), int(row) + 1) for row in near]).astype(np.float64))
    mean = _unit(gaussians.opacities[near].astype(np.float64)[None] @ rows)
    if not mean.any():
        raise ConfigError("--like-point: nothing is known about the Gaussians there; no view sees them")
    return mean.astype(np.float32)


def expanded(features: SceneFeatures, n: int, query: F32) -> F32:
    """Unit row [1, C]: the mean feature of the scene's Gaussians that are most like `query` [1, C], measured from the
    scene's mean feature.
    """
    mean = _sample(features, n).mean(axis=0)
    wanted = _unit(query.astype(np.float64)) - mean
    scores = np.empty(n)
    for start in range(0, n, PASS):
        rows = _unit(features.rows(start, min(n, start + PASS)).astype(np.float64))
        known = rows.any(axis=1)
        scores[start : start + len(rows)] = np.where(known, (_unit(rows - mean) @ wanted.T)[:, 0], -np.inf)
    best = np.argsort(-scores, kind="stable")[: min(n, max(_FEWEST, round(_SHARE * n)))]
    best = np.sort(best[np.isfinite(scores[best])])
    rows = np.concatenate([features.rows(int(row), int(row) + 1) for row in best])
    return _unit(_unit(rows.astype(np.float64)).mean(axis=0, keepdims=True)).astype(np.float32)


def typical_features(features: SceneFeatures, n: int, query: F32) -> F32:
    """Unit rows [M, C], M <= 16: what else than `query` [1, C] is typical of a scene of `n` Gaussians.

    Seeds are the features farthest from all before them (Gonzalez 1985), so there is nothing to draw at random.
    """
    rows = _sample(features, n)
    centres = query.astype(np.float64)
    nearest = rows @ centres[0]
    for _ in range(_CENTRES):
        seed = int(nearest.argmin())
        if nearest[seed] > 1 - 1e-6:  # nothing else is there
            break
        centres = np.vstack([centres, rows[seed]])
        nearest = np.maximum(nearest, rows @ rows[seed])
    for _ in range(_ROUNDS):
        owner = (rows @ centres.T).argmax(axis=1)
        for k in range(1, len(centres)):
            mean = rows[owner == k].sum(axis=0)
            if (length := np.linalg.norm(mean)) > 0:
                centres[k] = mean / length
    others = centres[1:] if len(centres) > 1 else -centres
    return others.astype(np.float32)


def _sample(features: SceneFeatures, n: int) -> NDArray[np.float64]:
    """Unit features [P, C] of evenly spaced short runs of Gaussians; those without one are left out."""
    step = max(1, n // _SAMPLE) * _RUN
    parts = [features.rows(start, min(n, start + _RUN)) for start in range(0, n, step)]
    rows = _unit(np.concatenate(parts).astype(np.float64))
    known = rows.any(axis=1)
    if not known.any():
        raise ConfigError("the scene has no features to compare with; no view sees any of its Gaussians")
    return rows[known]


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows [P, C] at length 1; rows of zeros stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
