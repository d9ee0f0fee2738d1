"""Colours: features by PCA, classes by a fixed palette, a query's answer by heat."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from numpy.typing import NDArray

from chorus_common.labels import FOREGROUND_EXCLUDED

F32 = NDArray[np.float32]

#: Rows of a basis: enough for three directions, and the same for every scene size.
_SAMPLE = 20_000
_UNKNOWN = (0.82, 0.82, 0.84)


@dataclass(frozen=True)
class PcaColours:
    """Three directions and the range of each that becomes 0 to 1. One basis for all pictures that are to be compared.

    mean [C], directions [C, 3], low, high [3].
    """

    mean: F32
    directions: F32
    low: F32
    high: F32

    @staticmethod
    def fit(parts: Sequence[F32], seed: int = 0) -> PcaColours:
        """Basis of the pooled rows of `parts` (each [N_i, C], equal shares): principal directions of a seeded sample.

        The largest loading of each direction is positive, and the range is the 1st to 99th percentile, so that the same
        features give the same colours on every machine.
        """
        rng = np.random.default_rng(seed)
        share = max(1, _SAMPLE // max(1, len(parts)))
        rows = [part[np.sort(rng.permutation(len(part))[:share])] for part in parts]
        sample = np.concatenate(rows).astype(np.float64)
        mean = sample.mean(axis=0)
        _, vectors = np.linalg.eigh((sample - mean).T @ (sample - mean))
        directions = np.zeros((sample.shape[1], 3))
        found = vectors[:, ::-1][:, :3]
        directions[:, : found.shape[1]] = found
        largest = directions[np.abs(directions).argmax(axis=0), np.arange(3)]
        directions *= np.where(largest < 0, -1.0, 1.0)
        low, high = np.percentile((sample - mean) @ directions, [1, 99], axis=0)
        high = np.where(high - low > 1e-12, high, low + 1)
        return PcaColours(*(x.astype(np.float32) for x in (mean, directions, low, high)))

    def __call__(self, features: F32) -> F32:
        """Colours [..., 3] in [0, 1] of features [..., C]."""
        return np.clip(((features - self.mean) @ self.directions - self.low) / (self.high - self.low), 0, 1)


def class_palette(class_names: Sequence[str]) -> F32:
    """[K + 1, 3] colours in [0, 1]: one per class and, last, one for "no label or prediction".

    Hues go round by the golden angle, so that neighbours in the list differ; what surrounds everything (wall, floor,
    ceiling) is muted.
    """
    colours = []
    for i, name in enumerate(class_names):
        hue = (0.03 + i * 0.381966) % 1.0
        if name in FOREGROUND_EXCLUDED:
            light, saturation = {"wall": (0.74, 0.16), "floor": (0.60, 0.22), "ceiling": (0.86, 0.10)}[name]
        else:
            light, saturation = ((0.52, 0.72), (0.40, 0.66), (0.64, 0.62))[i % 3]
        colours.append(colorsys.hls_to_rgb(hue, light, saturation))
    return np.array([*colours, _UNKNOWN], dtype=np.float32)


def heat(values: F32, low: float, high: float) -> F32:
    """Turbo colours [..., 3] of values, `low` to `high`."""
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return matplotlib.colormaps["turbo"](scaled)[..., :3].astype(np.float32)
