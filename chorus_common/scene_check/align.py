"""Bring a scene to what encoders and rasterisers expect: z up, metres, no Gaussian far from all others.

`auto` acts where the visibility is clear and says so; a scene that is in order stays as it is, to the byte. `off`
leaves everything alone and warns where a precondition does not seem to hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from chorus_common.cameras import CameraSet
from chorus_common.rotations import quat_from_rotation, rotate
from chorus_common.scene import GaussianScene, quats_to_rotations
from chorus_common.scene_check.enclosure import is_interior
from chorus_common.scene_check.findings import Finding
from chorus_common.scene_check.metric import estimate_scale
from chorus_common.scene_check.orientation import UP_Z, UpEstimate, estimate_up, rotation_to_z
from chorus_common.scene_check.outliers import below_all_others, find_outliers
from chorus_common.scene_check.settings import AlignmentSettings
from chorus_common.scene_check.surfaces import Surfaces, scene_surfaces
from chorus_common.scene_check.words import AUTO, OFF, parse_number, parse_up

F64 = NDArray[np.float64]

#: An estimate of up is acted on from this confidence on, and where it is so many times as likely as the file's own z.
CONFIDENT, TIMES_Z = 0.5, 4.5


@dataclass(frozen=True, eq=False)
class Alignment:
    """x_scene = scale * rotation @ x_file.

    rotation [3, 3] f64; scale: metres per unit of the file.
    """

    rotation: F64 = field(default_factory=lambda: np.eye(3))
    scale: float = 1.0

    @property
    def is_identity(self) -> bool:
        return self.scale == 1.0 and bool((self.rotation == np.eye(3)).all())

    def points(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Points [P, 3] of the file in the scene's frame; the very same array where nothing changes."""
        return points if self.is_identity else points @ self.rotation.T * self.scale

    def points_back(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Points [P, 3] of the scene's frame in the file's."""
        return points if self.is_identity else (points / self.scale) @ self.rotation

    def scene(self, scene: GaussianScene) -> GaussianScene:
        """`scene` in the aligned frame."""
        if self.is_identity:
            return scene
        turned = rotate(scene, self.rotation, np.zeros(3))
        return replace(turned, means=turned.means * self.scale, scales=turned.scales * self.scale)

    def cameras(self, cameras: CameraSet) -> CameraSet:
        """The same cameras in the aligned frame: every one sees what it saw."""
        if self.is_identity:
            return cameras
        views = cameras.viewmats.copy()
        views[:, :3, :3] = cameras.viewmats[:, :3, :3] @ self.rotation.T
        views[:, :3, 3] *= self.scale
        return replace(cameras, viewmats=views)

    @classmethod
    def from_quat(cls, quat: tuple[float, float, float, float], scale: float) -> Alignment:
        """The inverse of `as_dict`."""
        if quat == (1.0, 0.0, 0.0, 0.0):
            return cls(np.eye(3), scale)
        return cls(np.asarray(quats_to_rotations(np.array([quat])), dtype=np.float64)[0], scale)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the quaternion (w, x, y, z) of the rotation and the scale."""
        return {"quat": [float(v) for v in quat_from_rotation(self.rotation)], "scale": float(self.scale)}


@dataclass(frozen=True, eq=False)
class AlignedScene:
    """A scene that was brought in order.

    Attributes:
        scene: the kept Gaussians; `source_ids` are their rows in the file.
        cameras: in the same frame, where the scene has some.
        alignment: from the file's frame to the scene's.
        outliers [N] bool: the rows of the scene that came in which were left out.
        nearest [n outliers] i64: for each of them the nearest kept row.
        interior: whether the scene surrounds the one who stands in it.
        findings: what was found and done.
    """

    scene: GaussianScene
    cameras: CameraSet | None
    alignment: Alignment
    outliers: NDArray[np.bool_]
    nearest: NDArray[np.int64]
    interior: bool
    findings: tuple[Finding, ...]

    def all_rows(self, kept: NDArray[Any]) -> NDArray[Any]:
        """Values [N, ...] for every row that came in, from those of the kept rows: one that was left out gets the value
        of the nearest kept one.
        """
        if not self.outliers.any():
            return kept
        values = np.empty((len(self.outliers), *kept.shape[1:]), dtype=kept.dtype)
        values[~self.outliers] = kept
        values[self.outliers] = kept[self.nearest]
        return values


def align_scene(
    scene: GaussianScene, settings: AlignmentSettings | None = None, cameras: CameraSet | None = None
) -> AlignedScene:
    """`scene` with z up, in metres and without outliers, as `settings` say (all "auto" by default)."""
    settings = settings or AlignmentSettings()
    findings: list[Finding] = []
    apart = find_outliers(scene, _gap(settings))
    if scene.outliers is not None:
        apart |= scene.outliers
    surfaces = scene_surfaces(scene, apart)
    interior = is_interior(surfaces)
    rotation = _rotation(settings, surfaces, cameras, interior, findings)
    upright = Alignment(rotation)
    if settings.outliers in (AUTO, OFF) and len(scene):
        apart |= below_all_others(scene.means.astype(np.float64) @ rotation.T, ~apart)
    turned = Surfaces(surfaces.points @ rotation.T, surfaces.normals @ rotation.T, surfaces.weights)
    seen_from = None if cameras is None else upright.cameras(cameras)
    # Heights say nothing where up may be another axis.
    upright_interior = interior and all(finding.severity != "warning" for finding in findings)
    scale = _scale(settings, turned, seen_from, upright_interior, findings)
    outliers = _outliers(settings, apart, findings)
    alignment = Alignment(rotation, scale)
    kept = scene if not outliers.any() else scene.select(~outliers)
    nearest = np.zeros(0, dtype=np.int64)
    if outliers.any():
        nearest = cKDTree(kept.means).query(scene.means[outliers])[1].astype(np.int64)
        kept = replace(kept, outliers=None)
    return AlignedScene(
        alignment.scene(kept),
        None if cameras is None else alignment.cameras(cameras),
        alignment,
        outliers,
        nearest,
        interior,
        tuple(findings),
    )


def _gap(settings: AlignmentSettings) -> float | None:
    """The distance from which a Gaussian lies apart, in the file's unit; None = from the scene itself."""
    metres = parse_number(settings.outliers)
    unit = parse_number(settings.scale)
    return None if metres is None else metres / (unit or 1.0)


def _rotation(
    settings: AlignmentSettings,
    surfaces: Surfaces,
    cameras: CameraSet | None,
    interior: bool,
    findings: list[Finding],
) -> F64:
    """The rotation [3, 3] to z up, with what is to be said about it."""
    named = parse_up(settings.up)
    if named is not None:
        findings.append(Finding("up", "ok", f"{_words(named)} is up, as told"))
        return rotation_to_z(named)
    found = estimate_up(surfaces, cameras)
    if found is None or (found.source == "surfaces" and not interior):
        findings.append(Finding("up", "note", "no sign of a floor; z is taken for up", 0.5, "name it with --up if not"))
        return np.eye(3)
    if float(found.up @ UP_Z) > 1 - 1e-9:
        findings.append(Finding("up", "ok", f"z is up, by the {found.source}", found.confidence))
        return np.eye(3)
    clear = found.confidence >= CONFIDENT and found.confidence >= TIMES_Z * found.of_z
    if clear and settings.up == AUTO:
        findings.append(
            Finding("up", "note", f"{_words(found.up)} is up, by the {found.source}; turned to z", found.confidence)
        )
        return rotation_to_z(found.up)
    findings.append(_up_warning(found, clear))
    return np.eye(3)


def _up_warning(found: UpEstimate, clear: bool) -> Finding:
    what = f"{_words(found.up)} seems to be up, by the {found.source}, not z" if clear else "which way is up is unclear"
    confidence = found.confidence if clear else 1 - found.confidence
    return Finding("up", "warning", what, confidence, "z is taken for up; say --up AXIS if that is wrong")


def _scale(
    settings: AlignmentSettings,
    surfaces: Surfaces,
    cameras: CameraSet | None,
    interior: bool,
    findings: list[Finding],
) -> float:
    """Metres per unit, with what is to be said about it."""
    named = parse_number(settings.scale)
    if named is not None:
        findings.append(Finding("scale", "ok", f"a unit is {named:g} m, as told"))
        return named
    found = estimate_scale(surfaces, cameras) if interior else None
    if found is None:
        findings.append(Finding("scale", "note", "nothing tells the size; a unit is taken for a metre", 0.5))
        return 1.0
    confidence = float(np.clip(1 - found.spread, 0, 1))
    if found.is_metric:
        findings.append(Finding("scale", "ok", f"in metres, by {found.source}", confidence))
        return 1.0
    unit = found.unit or f"units of {found.factor:.3g} m"
    if settings.scale == AUTO:
        findings.append(Finding("scale", "note", f"in {unit}, by {found.source}; brought to metres", confidence))
        return found.factor
    findings.append(
        Finding("scale", "warning", f"seems to be in {unit}, by {found.source}", confidence, "say --scale METRES")
    )
    return 1.0


def _outliers(
    settings: AlignmentSettings,
    apart: NDArray[np.bool_],
    findings: list[Finding],
) -> NDArray[np.bool_]:
    """Which rows are left out, with what is to be said about it."""
    count = int(apart.sum())
    if settings.outliers == OFF:
        if count:
            findings.append(
                Finding("outliers", "warning", f"{count} Gaussians lie apart from all others", 0.9, "--outliers auto")
            )
        return np.zeros(len(apart), dtype=np.bool_)
    if count:
        what = f"{count} Gaussians lie apart from all others; left out"
        findings.append(Finding("outliers", "note", what, 0.9))
    else:
        findings.append(Finding("outliers", "ok", "none"))
    return apart


def _words(up: F64) -> str:
    """ "z", "-y", or the vector."""
    k = int(np.abs(up).argmax())
    if abs(up[k]) > 1 - 1e-9:
        return ("-" if up[k] < 0 else "") + "xyz"[k]
    return "(" + ", ".join(f"{v:.2f}" for v in up) + ")"
