"""The views that are tried: from where people stand, or on rings around an object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.cameras import look_at
from chorus_common.lifting import CellGrid
from chorus_common.rasterize import Rasterizer, get_backend
from chorus_common.scene import GaussianScene
from chorus_common.viewpoints import Survey
from chorus_common.viewpoints.kernels import in_sight, share_of_hits
from chorus_common.viewpoints.places import ring_places, standing_places

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Pixels of the longer side of a probe picture, and the summed weight from which a Gaussian counts as seen in it.
PROBE, SEEN_WEIGHT = 96, 0.02
#: Headings from a place, and degrees above the horizon: in rooms, and on open ground, where nothing is above.
YAWS, PITCHES, OPEN_PITCHES = 10, (-40.0, -15.0, 10.0, 35.0), (-40.0, -20.0, -5.0)
#: A target is in sight where the line to it is free but for the last voxels.
SLACK = 1.8


@dataclass(frozen=True, eq=False)
class Candidates:
    """M views to choose from.

    Attributes:
        viewmats [M, 4, 4]; camera_centre [M]: which position a view was taken from; room [M]: which room that is in.
        worth [M]: the share of the picture that shows something.
        seen: bool CSR [M, targets].
    """

    viewmats: F64
    camera_centre: I64
    room: I64
    worth: F64
    seen: sparse.csr_matrix


def standing_views(
    scene: GaussianScene,
    targets: I64,
    survey: Survey,
    n_views: int,
    intrinsics: F64,
    width: int,
    height: int,
    rng: np.random.Generator,
) -> Candidates:
    """Views from where people stand: headings (turned by a random angle per place) times pitches. What is in sight is
    decided by the survey's voxels, so that the time does not grow with the Gaussians.
    """
    grid = survey.grid
    eyes, rooms = standing_places(survey, max(8, n_views // 2), rng)
    pitches = PITCHES if survey.kind == "interior" else OPEN_PITCHES
    yaws = max(YAWS, -(-2 * n_views // (len(eyes) * len(pitches))))
    points = scene.means[targets].astype(np.float64)
    voxels = grid.voxels_of(points)
    frame = grid.frame
    pixels = _pixel_rays(intrinsics, width, height)
    viewmats, camera_centre, worth, rows = [], [], [], []
    for k, eye in enumerate(eyes):
        place = grid.voxels_of(eye[None])
        visible = np.flatnonzero(in_sight(grid.solid, place[0], voxels, SLACK))
        turn = rng.uniform(0, 2 * np.pi)
        for pitch in np.radians(pitches):
            for yaw in turn + 2 * np.pi * np.arange(yaws) / yaws:
                heading = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
                view = look_at(eye, eye + heading @ frame, tuple(frame[2]))
                viewmats.append(view)
                camera_centre.append(k)
                rays = pixels @ view[:3, :3] @ frame.T
                reach = float(sum(grid.solid.shape))
                worth.append(float(share_of_hits(grid.solid, np.floor(place).astype(np.int64), rays, reach)[0]))
                rows.append(visible[in_picture(points[visible], view, intrinsics, width, height)])
    centre = np.array(camera_centre)
    return Candidates(np.array(viewmats), centre, rooms[centre], np.array(worth), bool_csr(rows, len(targets)))


def ring_views(
    scene: GaussianScene, targets: I64, survey: Survey, n_views: int, intrinsics: F64, width: int, height: int
) -> Candidates:
    """Views from rings around an object, at the distance from which it fills the picture, every other one at two thirds
    of it. What they see is decided by small pictures.
    """
    body = 2 * float(np.median(scene.scales[targets].max(1)))  # of a lone Gaussian
    fields = np.array([width, height]) / 2 / intrinsics[[0, 1], [0, 1]]
    eyes, centre = ring_places(survey, max(36, n_views * 3 // 2), fields, body)
    backend = get_backend("cpu")
    probe_width, probe_height = probe_size(width, height)
    probe = intrinsics * np.array([[probe_width / width], [probe_height / height], [1]])
    viewmats, rows = [], []
    for eye in eyes:
        view = look_at(eye, centre, tuple(survey.grid.frame[2]))
        viewmats.append(view)
        rows.append(np.flatnonzero(seen_in(scene, view, probe, probe_width, probe_height, backend)[targets]))
    count = len(rows)
    nowhere = np.zeros(count, dtype=np.int64)
    return Candidates(np.array(viewmats), np.arange(count), nowhere, np.ones(count), bool_csr(rows, len(targets)))


def probe_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of the small picture that says what a view sees."""
    scale = PROBE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def seen_in(
    scene: GaussianScene, view: F64, intrinsics: F64, width: int, height: int, backend: Rasterizer
) -> NDArray[np.bool_]:
    """Which Gaussians [N] take weight in this picture."""
    hits = backend.render(scene, view, intrinsics, width, height, grid=CellGrid(width, height, 16)).hits
    assert hits is not None
    return np.bincount(hits.gaussian_ids, hits.weights, minlength=len(scene)) >= SEEN_WEIGHT


def _pixel_rays(intrinsics: F64, width: int, height: int) -> F64:
    """Directions [R, 3] in camera coordinates through a few pixels of a picture."""
    x, y = np.meshgrid((np.arange(8) + 0.5) / 8 * width, (np.arange(6) + 0.5) / 6 * height)
    rays = np.stack(
        [
            (x.ravel() - intrinsics[0, 2]) / intrinsics[0, 0],
            (y.ravel() - intrinsics[1, 2]) / intrinsics[1, 1],
            np.ones(x.size),
        ],
        axis=1,
    )
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))


def in_picture(points: F64, view: F64, intrinsics: F64, width: int, height: int) -> NDArray[np.bool_]:
    """Which points [P, 3] project into the picture."""
    camera = points @ view[:3, :3].T + view[:3, 3]
    z = np.maximum(camera[:, 2], 1e-9)
    x = intrinsics[0, 0] * camera[:, 0] / z + intrinsics[0, 2]
    y = intrinsics[1, 1] * camera[:, 1] / z + intrinsics[1, 2]
    return (camera[:, 2] > 0.01) & (x >= 0) & (x < width) & (y >= 0) & (y < height)


def bool_csr(rows: list[I64], columns: int) -> sparse.csr_matrix:
    """[len(rows), columns] f32 matrix of ones at the given ascending columns of every row."""
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    indices = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    return sparse.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(len(rows), columns))
