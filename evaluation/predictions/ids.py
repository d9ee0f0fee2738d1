"""The ids that a benchmark's submission files use, by class index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus_common.labels import LABEL_SPACES, SCANNET20_NYU40_IDS


def benchmark_ids(label_space: str) -> NDArray[np.int64]:
    """[K] ids: the benchmark's where it has some, otherwise class index + 1, so that 0 stays free for "none"."""
    if label_space == "scannet20":
        return np.array(SCANNET20_NYU40_IDS, dtype=np.int64)
    return np.arange(1, len(LABEL_SPACES[label_space]) + 1, dtype=np.int64)
