"""The released Chorus's filter of a splat's outliers, as a mask (the settings of its input reader).

It finds Gaussians (a) whose largest scale exceeds half of exp(median + 5 MAD) of the logarithms, (b) whose largest
scale exceeds 10 m, (c) that are among the 0.5 % largest and have fewer than 3 neighbours within
min(0.25 sqrt(largest scale), 2) m. Neighbours are counted among what (a) and (b) leave. The release drops such rows;
here they keep their places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from chorus_common.scene import GaussianScene

MAD_FACTOR, THRESHOLD_SHARE, LARGEST_M = 5.0, 0.5, 10.0
CANDIDATES, NEIGHBOURS, RADIUS_FACTOR, RADIUS_MAX_M = 0.995, 3, 0.25, 2.0


def release_outliers(scene: GaussianScene) -> NDArray[np.bool_]:
    """[N]: whether the release would drop the Gaussian."""
    largest = scene.scales.max(1).astype(np.float64)
    logs = np.log(largest)
    median = np.median(logs)
    threshold = THRESHOLD_SHARE * np.exp(median + MAD_FACTOR * np.median(np.abs(logs - median)))
    outliers = (largest > threshold) | (largest > LARGEST_M)
    left = np.flatnonzero(~outliers)
    if len(left) == 0:
        return outliers
    candidates = left[largest[left] >= np.quantile(largest[left], CANDIDATES)]
    tree = cKDTree(scene.means[left])
    radius = np.minimum(RADIUS_FACTOR * np.sqrt(largest[candidates]), RADIUS_MAX_M)
    # the NEIGHBOURS nearest besides itself say whether there are so many within the radius
    distance, _ = tree.query(scene.means[candidates], k=min(NEIGHBOURS + 1, len(left)))
    distance = distance.reshape(len(candidates), -1)
    lonely = (distance[:, -1] > radius) if distance.shape[1] == NEIGHBOURS + 1 else np.ones(len(candidates), bool)
    outliers[candidates[lonely]] = True
    return outliers
