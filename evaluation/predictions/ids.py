"""The ids that a benchmark's submission files use, by class index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus_common.labels import SPACES


def benchmark_ids(label_space: str) -> NDArray[np.int64]:
    """[K + 1] ids of the release; the last stands for no prediction: 0, or -1 where 0 is a class."""
    ids = SPACES[label_space].ids
    return np.array([*ids, -1 if 0 in ids else 0], dtype=np.int64)
