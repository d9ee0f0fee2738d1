"""How lenses bend a picture: the camera models of COLMAP, which OpenCV, nerfstudio and ScanNet++ share.

A lens is a map from where a pinhole would see a ray, (x, y) = (X / Z, Y / Z), to where the picture shows it, in the
same unit. To undo it nothing has to be inverted: every pixel of the pinhole picture is looked up in the bent one.
Formulas: COLMAP src/colmap/sensor/models.h; OpenCV "Camera Calibration", "Fisheye camera model"; Devernay & Faugeras
2001, "Straight lines have to be straight" (FOV).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, field

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

#: Distortion below this moves no pixel of an ordinary picture by more than a hundredth.
NO_DISTORTION = 1e-8

#: How finely the radius is searched for the place where a polynomial folds over.
_STEPS = 4096


@dataclass(frozen=True)
class Lens:
    """With r the length of (x, y), or of theta (x, y) / r where `fisheye` (theta = atan r is then its length):

        x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8) / (1 + d1 r^2 + d2 r^4 + d3 r^6)
             + 2 p1 x y + p2 (r^2 + 2 x^2) + s1 r^2,   and y' alike with p1, p2 exchanged and s2

    Attributes:
        radial: k1 to k4. denominator: d1 to d3. tangential: p1, p2. prism: s1, s2. fov: the FOV model's one parameter
            in radians, 0 = none; it comes without the others.
    """

    fisheye: bool = False
    radial: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    denominator: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tangential: tuple[float, float] = (0.0, 0.0)
    prism: tuple[float, float] = (0.0, 0.0)
    fov: float = 0.0

    @property
    def bends(self) -> bool:
        """Whether its picture is another one than a pinhole's."""
        others = (*self.radial, *self.denominator, *self.tangential, *self.prism, self.fov)
        return self.fisheye or any(abs(value) > NO_DISTORTION for value in others)

    def distort(self, xy: F64) -> F64:
        """Where the picture shows rays [..., 2]; NaN beyond the radius at which the polynomial folds over."""
        r = np.linalg.norm(xy, axis=-1)
        if self.fov:
            return xy * self._fov_factor(r)[..., None]
        if self.fisheye:
            theta = np.arctan(r)
            xy, r = xy * np.where(r > 1e-12, theta / np.maximum(r, 1e-12), 1.0)[..., None], theta
        r2 = r * r
        x, y = xy[..., 0], xy[..., 1]
        (p1, p2), (s1, s2) = self.tangential, self.prism
        factor = self._factor(r2)
        u = x * factor + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + s1 * r2
        v = y * factor + 2 * p2 * x * y + p1 * (r2 + 2 * y * y) + s2 * r2
        bent = np.stack([u, v], axis=-1)
        bent[r > self._last_radius(float(np.max(r, initial=0.0)))] = np.nan
        return bent

    def _factor(self, r2: F64) -> F64:
        k1, k2, k3, k4 = self.radial
        d1, d2, d3 = self.denominator
        return (1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))) / (1 + r2 * (d1 + r2 * (d2 + r2 * d3)))

    def _fov_factor(self, r: F64) -> F64:
        reach = 2 * np.tan(self.fov / 2)
        return np.where(r > 1e-9, np.arctan(r * reach) / (np.maximum(r, 1e-9) * self.fov), reach / self.fov)

    def _last_radius(self, largest: float) -> float:
        """Up to which r, at most `largest`, what lies further out is also shown further out."""
        radii = np.linspace(0, largest, _STEPS)
        shown = radii * self._factor(radii * radii)
        folds = np.flatnonzero(~(np.diff(shown) > 0))
        return float(radii[folds[0]]) if len(folds) and largest > 0 else largest

    def as_list(self) -> list[object]:
        """For a fingerprint."""
        return list(astuple(self))


#: A pinhole.
PINHOLE = Lens()


@dataclass(frozen=True)
class _Model:
    """How a camera model lists its parameters: focal lengths (1 or 2), cx, cy, then what `names` say."""

    focals: int
    names: tuple[str, ...] = ()
    fisheye: bool = False
    count: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", self.focals + 2 + len(self.names))


#: COLMAP's models by name.
MODELS: dict[str, _Model] = {
    "SIMPLE_PINHOLE": _Model(1),
    "PINHOLE": _Model(2),
    "SIMPLE_RADIAL": _Model(1, ("k1",)),
    "RADIAL": _Model(1, ("k1", "k2")),
    "OPENCV": _Model(2, ("k1", "k2", "p1", "p2")),
    "OPENCV_FISHEYE": _Model(2, ("k1", "k2", "k3", "k4"), fisheye=True),
    "FULL_OPENCV": _Model(2, ("k1", "k2", "p1", "p2", "k3", "d1", "d2", "d3")),
    "FOV": _Model(2, ("fov",)),
    "SIMPLE_RADIAL_FISHEYE": _Model(1, ("k1",), fisheye=True),
    "RADIAL_FISHEYE": _Model(1, ("k1", "k2"), fisheye=True),
    "THIN_PRISM_FISHEYE": _Model(2, ("k1", "k2", "p1", "p2", "k3", "k4", "s1", "s2"), fisheye=True),
}


def named_lens(values: dict[str, float], *, fisheye: bool = False) -> Lens:
    """The lens of parameters by name (k1 to k4, d1 to d3, p1, p2, s1, s2, fov); absent ones are 0."""
    of = {name: float(value) for name, value in values.items()}

    def get(*names: str) -> tuple[float, ...]:
        return tuple(of.get(name, 0.0) for name in names)

    return Lens(
        fisheye,
        get("k1", "k2", "k3", "k4"),  # type: ignore[arg-type]
        get("d1", "d2", "d3"),  # type: ignore[arg-type]
        get("p1", "p2"),  # type: ignore[arg-type]
        get("s1", "s2"),  # type: ignore[arg-type]
        of.get("fov", 0.0),
    )


def colmap_lens(model: str, parameters: list[float]) -> Lens:
    """The lens of a COLMAP camera; `parameters`: all of them, in the file's order."""
    found = MODELS[model]
    return named_lens(dict(zip(found.names, parameters[found.focals + 2 :])), fisheye=found.fisheye)
