"""Look at a scene before it costs anything: what `chorus-data check` tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from chorus_common.cameras import CameraSet
from chorus_common.lifting import CellGrid
from chorus_common.rasterize import get_backend
from chorus_common.scene import GaussianScene, RenderMode
from chorus_common.scene_check import AlignedScene, AlignmentSettings, Finding, align_scene
from chorus_common.viewpoints import Survey, survey_scene

#: Pixels of the longer side of the pictures that cameras are judged by, and how many of the cameras are.
PROBE, MOST_VIEWS = 160, 24
#: Summed weight from which a Gaussian counts as seen in such a picture.
SEEN_WEIGHT = 0.02
#: Share of empty pixels from which cameras do not seem to belong to a scene, of an object and of an interior.
EMPTY = (0.9, 0.5)
#: Views that should see a Gaussian, and the share of Gaussians that should be seen so often.
ENOUGH_VIEWS, ENOUGH_COVERAGE = 3, 0.8


@dataclass(frozen=True, eq=False)
class SceneReport:
    """findings: in the order they were looked at; aligned: the scene as commands would take it; survey: what it is and
    where people can stand in it.
    """

    findings: tuple[Finding, ...]
    aligned: AlignedScene
    survey: Survey

    @property
    def usable(self) -> bool:
        """Whether nothing was found that a scene cannot be used with."""
        return all(finding.severity != "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "usable": self.usable,
            "kind": self.survey.kind,
            "rooms": [
                {"storey": room.storey, "area": round(room.area, 2), "height": _finite(room.height)}
                for room in self.survey.rooms
            ],
            "n_gaussians": len(self.aligned.outliers),
            "n_outliers": int(self.aligned.outliers.sum()),
            "alignment": self.aligned.alignment.as_dict(),
            "findings": [finding.as_dict() for finding in self.findings],
        }


def check_scene(
    scene: GaussianScene, settings: AlignmentSettings | None = None, cameras: CameraSet | None = None
) -> SceneReport:
    """Judge `scene`, and its cameras where it has some."""
    findings = [*_rows(scene), _render_mode(scene)]
    aligned = align_scene(scene, settings, cameras)
    survey = survey_scene(aligned.scene)
    findings.append(Finding("kind", "ok", _kind(survey), 0.8))
    findings += aligned.findings
    if aligned.cameras is not None:
        findings += _cameras(aligned.scene, aligned.cameras, survey.kind == "interior")
    return SceneReport(tuple(findings), aligned, survey)


def _kind(survey: Survey) -> str:
    """What a scene is, and from where it would be looked at."""
    if survey.kind == "object":
        return "an object, looked at from rings around it"
    if survey.kind == "outdoors":
        return "outdoors, looked at from its ground"
    area = sum(room.area for room in survey.rooms)
    storeys = len({room.storey for room in survey.rooms})
    rooms = "1 room" if len(survey.rooms) == 1 else f"{len(survey.rooms)} rooms"
    on = "" if storeys == 1 else f" on {storeys} storeys"
    roof = "" if np.isfinite(survey.rooms[0].height) else ", without a ceiling"
    return f"an interior: {rooms}{on}{roof}, {area:.0f} m2 of free floor, looked at from eye height"


def _finite(value: float) -> float | None:
    """For JSON, which knows no infinity."""
    return round(value, 2) if np.isfinite(value) else None


def _rows(scene: GaussianScene) -> list[Finding]:
    """Rows that say nothing: all at one place, or clear."""
    found = []
    same = (scene.means == 0).all(axis=1) if len(scene) else np.zeros(0, dtype=bool)
    if (share := float(same.mean())) > 0.01:
        found.append(Finding("rows", "warning", f"{share:.0%} of the centres are exactly 0, 0, 0", advice="prune them"))
    clear = float((scene.opacities < 0.005).mean())
    if clear > 0.2:
        found.append(Finding("rows", "note", f"{clear:.0%} of the Gaussians are clear (opacity below 0.005)"))
    if scene.outliers is not None and scene.outliers.any():
        count = int(scene.outliers.sum())
        found.append(Finding("rows", "warning", f"{count} rows lie or reach further than any scene", advice="left out"))
    return found or [Finding("rows", "ok", f"{len(scene)} Gaussians, all finite")]


def _render_mode(scene: GaussianScene) -> Finding:
    if scene.render_mode is RenderMode.DISCS:
        return Finding(
            "render mode", "error", "made of flat discs (2D Gaussian Splatting), which these rasterisers do not draw",
            advice="train or convert it as ordinary Gaussians",
        )  # fmt: skip
    return Finding("render mode", "ok", f"{scene.render_mode.value}")


def _cameras(scene: GaussianScene, cameras: CameraSet, interior: bool) -> list[Finding]:
    """Do the cameras look at the scene, and do they see enough of it?"""
    views = np.unique(np.linspace(0, len(cameras) - 1, min(MOST_VIEWS, len(cameras))).round().astype(int))
    backend = get_backend("cpu")
    empty, times = [], np.zeros(len(scene), dtype=np.int64)
    for view in views:
        one = cameras.select([int(view)])
        factor = PROBE / max(one.width, one.height)
        small = one.resized(max(1, round(one.width * factor)), max(1, round(one.height * factor)))
        size = small.width, small.height
        picture = backend.render(scene, small.viewmats[0], small.intrinsics[0], *size, grid=CellGrid(*size, 16))
        assert picture.hits is not None
        empty.append(float((picture.alpha < 0.05).mean()))
        weights = np.bincount(picture.hits.gaussian_ids, picture.hits.weights, minlength=len(scene))
        times += weights >= SEEN_WEIGHT
    share = float(np.mean(empty))
    wrong = share > EMPTY[interior]
    found = [
        Finding(
            "cameras", "warning" if wrong else "ok", f"{share:.0%} of the pixels of {len(views)} views are empty",
            0.8 if wrong else 1.0, "do the cameras belong to this scene, in its units and axes?" if wrong else "",
        )
    ]  # fmt: skip
    if len(views) == len(cameras) or len(views) >= MOST_VIEWS:
        enough = min(ENOUGH_VIEWS, len(views))
        covered = float((times >= enough).mean()) if len(scene) else 0.0
        poor = covered < ENOUGH_COVERAGE
        found.append(
            Finding(
                "coverage", "warning" if poor else "ok",
                f"{covered:.0%} of the Gaussians are seen by {enough} of {len(views)} views",
                advice="let stage 1 choose views (index it without cameras)" if poor else "",
            )
        )  # fmt: skip
    return found
