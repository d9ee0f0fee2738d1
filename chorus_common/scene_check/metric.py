"""How many metres a unit of the file is, from the height of the room and of the cameras above its floor.

Interiors are built and filmed alike: ceilings hang 2.3 to 3.1 m above the floor, people hold cameras at 1.0 to 1.9 m.
The two witnesses are combined as Gaussians over the logarithm of the factor. Then the heights of horizontal surfaces
are laid over those of seats, beds, tables, counters and door frames, which are built alike everywhere. A scene that may
be metric is left as it is: only a factor far from 1 is acted on, and a factor near that of a unit people use
(millimetres, centimetres, inches, feet) is taken to be exactly that unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from chorus_common.cameras import CameraSet
from chorus_common.scene_check.orientation import FLAT
from chorus_common.scene_check.surfaces import Surfaces, weighted_quantiles

F64 = NDArray[np.float64]

#: Metres and spread of the logarithm: floor to ceiling; camera above floor.
CEILING, CEILING_SPREAD = 2.7, 0.12
CAMERA, CAMERA_SPREAD = 1.42, 0.17
#: Metres above the floor at which furniture has horizontal surfaces, how much of it, and the spread of the logarithm:
#: seats, beds, tables, counters, door frames.
FURNITURE = ((0.45, 1.0), (0.52, 0.7), (0.74, 1.0), (0.90, 0.7), (2.03, 0.6))
FURNITURE_SPREAD = 0.05
#: What a deviation of one spread from the other witnesses costs, in units of the cosine with that profile.
DEVIATION_COST = 0.1
#: A factor of less than this away from 1 is a metric scene.
TOLERATED = 1.6
#: metres per unit
UNITS = {"millimetres": 0.001, "centimetres": 0.01, "inches": 0.0254, "feet": 0.3048}
#: Spreads within which an estimate is one of these units.
UNIT_SPREADS = 1.6


@dataclass(frozen=True)
class ScaleEstimate:
    """factor: metres per unit of the file; spread: of its logarithm; source: what it was read from, in words; unit: the
    name of a common unit where the factor is exactly that, otherwise "".
    """

    factor: float
    spread: float
    source: str
    unit: str = ""

    @property
    def is_metric(self) -> bool:
        return max(self.factor, 1 / self.factor) < TOLERATED


def estimate_scale(surfaces: Surfaces, cameras: CameraSet | None = None) -> ScaleEstimate | None:
    """Metres per unit of an upright interior (z up); None where neither a ceiling nor cameras say anything."""
    floor, ceiling = floor_and_ceiling(surfaces)
    if floor is None:
        return None
    witnesses: list[tuple[float, float, str]] = []  # (log factor, spread, words)
    if ceiling is not None:
        witnesses.append((np.log(CEILING / (ceiling - floor)), CEILING_SPREAD, "floor and ceiling"))
    if cameras is not None and len(cameras) >= 3:
        height = float(np.median(cameras.centers[:, 2])) - floor
        if height > 0 and (ceiling is None or height < ceiling - floor):
            witnesses.append((np.log(CAMERA / height), CAMERA_SPREAD, "cameras"))
    if not witnesses:
        return None
    precision = np.array([1 / spread**2 for _, spread, _ in witnesses])
    mean = float((precision * [w[0] for w in witnesses]).sum() / precision.sum())
    spread = float(precision.sum() ** -0.5)
    source = " and ".join(w[2] for w in witnesses)
    refined = _by_furniture(surfaces, floor, mean, spread)
    for name, metres in UNITS.items():
        if abs(mean - np.log(metres)) < UNIT_SPREADS * spread:
            return ScaleEstimate(metres, spread, source, name)
    if refined is None:
        return ScaleEstimate(float(np.exp(mean)), spread, source)
    return ScaleEstimate(float(np.exp(refined)), 0.7 * spread, f"{source}, and the heights of furniture")


def _by_furniture(surfaces: Surfaces, floor: float, mean: float, spread: float) -> float | None:
    """The logarithm of the factor near `mean` with which horizontal surfaces lie at the heights of furniture; None
    where there are too few of them.
    """
    height = (surfaces.points[:, 2] - floor) * np.exp(mean)
    rows = (np.abs(surfaces.normals[:, 2]) > FLAT) & (height > 0.2) & (height < 2.6)
    if rows.sum() < 100:
        return None
    edges = np.linspace(np.log(0.25), np.log(2.25), 111)
    middle = (edges[:-1] + edges[1:]) / 2
    wanted = np.sum(
        [share * np.exp(-0.5 * ((middle - np.log(at)) / FURNITURE_SPREAD) ** 2) for at, share in FURNITURE], axis=0
    )
    logs, weights = np.log(height[rows]), surfaces.weights[rows]
    shifts = np.linspace(-2.5 * spread, 2.5 * spread, 51)
    scores = []
    for shift in shifts:
        profile = gaussian_filter1d(np.histogram(logs + shift, bins=edges, weights=weights)[0], 1.0)
        size = float(np.linalg.norm(profile) * np.linalg.norm(wanted))
        cosine = float(profile @ wanted) / size if size > 0 else 0.0
        scores.append(cosine - DEVIATION_COST * (shift / spread) ** 2)
    return mean + float(shifts[int(np.argmax(scores))])


def floor_and_ceiling(surfaces: Surfaces) -> tuple[float | None, float | None]:
    """Heights of the lowest and the highest large horizontal layer of an upright scene, in its unit; None where there
    is no such layer near that end.
    """
    height = surfaces.points[:, 2]
    flat = np.abs(surfaces.normals[:, 2]) > FLAT
    if flat.sum() < 50:
        return None, None
    low, high = weighted_quantiles(height, surfaces.weights, (0.005, 0.995))
    extent = float(high - low)
    if extent <= 0:
        return None, None
    share = surfaces.weights / surfaces.weights.sum()

    def layer(near: F64) -> float | None:
        rows = flat & (near < 0.06)
        if share[rows].sum() < 0.03:
            return None
        return float(weighted_quantiles(height[rows], share[rows], (0.5,))[0])

    return layer(np.abs(height - low) / extent), layer(np.abs(high - height) / extent)
