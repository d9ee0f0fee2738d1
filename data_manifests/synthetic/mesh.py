"""The same rooms as triangle meshes: patches cut into a grid of two triangles per cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_manifests.synthetic.model import Model, hidden, surface_colors
from data_manifests.synthetic.sampling import Samples, Soup
from data_manifests.synthetic.shapes import Patch

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Mesh:
    """vertices [V, 3] m, normals [V, 3], colors [V, 3] in 0..1, faces [F, 3] counter-clockwise seen from outside; per
    vertex the ScanNet20 label, the instance, the part, and the over-segmentation `segments` (a piece of at most about
    SEGMENT metres of one patch).
    """

    vertices: F64
    normals: F64
    colors: F64
    faces: NDArray[np.int32]
    labels: I64
    instances: I64
    parts: I64
    segments: I64


SEGMENT = 0.5  # metres


def tessellate(model: Model, step: float = 0.04) -> Mesh:
    """The room as a mesh with edges of about `step` metres; vertices that furniture hides for good are left out, as in
    a scan.
    """
    soup = Soup.build(list(model.patches))
    pieces = [_grid(soup, i, patch, step) for i, patch in enumerate(model.patches)]
    counts = np.array([len(piece.point) for piece, _, _ in pieces])
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    joined = Samples(
        **{key: np.concatenate([getattr(piece, key) for piece, _, _ in pieces]) for key in vars(pieces[0][0])}
    )
    faces = np.concatenate([face + start for (_, face, _), start in zip(pieces, first)])
    block_counts = np.array([blocks.max() + 1 for _, _, blocks in pieces])
    block_first = np.concatenate([[0], np.cumsum(block_counts)[:-1]])
    segments = np.concatenate([blocks + start for (_, _, blocks), start in zip(pieces, block_first)])
    colors = surface_colors(model, joined)
    keep = ~hidden(model, joined)
    renumber = np.cumsum(keep) - 1
    faces = renumber[faces[keep[faces].all(axis=1)]]
    parts = model.patch_parts[joined.patch][keep]
    return Mesh(
        joined.point[keep], joined.normal[keep], np.clip(colors[keep], 0, 1), faces.astype(np.int32),
        model.part_labels[parts],
        np.array(model.part_items, dtype=np.int64)[parts], parts, segments[keep],
    )  # fmt: skip


def _grid(soup: Soup, index: int, patch: Patch, step: float) -> tuple[Samples, I64, I64]:
    """Vertices, faces and segment blocks of one patch, resampled evenly by arc length."""
    height = float(soup.heights[index])
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(patch, axis=1), axis=-1).mean(axis=0))])
    width = float(along[-1])
    rows, columns = max(1, round(height / step)), max(1, round(width / step))
    v, u = np.linspace(0, height, rows + 1), np.linspace(0, width, columns + 1)
    row, fv = soup.bracket(np.full(rows + 1, index), v)
    fv = fv[:, None, None]
    lines = patch[row] * (1 - fv) + patch[row + 1] * fv  # [rows + 1, n, 3]
    column = np.clip(np.searchsorted(along, u, side="right") - 1, 0, patch.shape[1] - 2)
    fu = ((u - along[column]) / np.maximum(along[column + 1] - along[column], 1e-12))[None, :, None]
    points = lines[:, column] * (1 - fu) + lines[:, column + 1] * fu  # [rows + 1, columns + 1, 3]
    du = np.gradient(points, axis=1) if columns else points
    normal = np.cross(du, np.gradient(points, axis=0))
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    # where rows shrink to a point (the middle of a disc) the neighbouring row knows the normal
    normal = np.where(length > 1e-14, normal / np.maximum(length, 1e-14), 0.0)
    flat = length[..., 0] <= 1e-14
    if flat.any():
        normal[flat] = normal[~flat].mean(0) if (~flat).any() else [0.0, 0.0, 1.0]
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    vv, uu = np.meshgrid(v, u, indexing="ij")
    uv = np.stack([uu, vv], axis=-1).reshape(-1, 2)
    size = np.array([max(width, 1e-12), max(height, 1e-12)])
    number = np.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1)
    a, b, c, d = number[:-1, :-1].ravel(), number[:-1, 1:].ravel(), number[1:, 1:].ravel(), number[1:, :-1].ravel()
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    cuts = np.maximum(1, np.round(size / SEGMENT)).astype(np.int64)
    cell = np.minimum((uv / size * cuts).astype(np.int64), cuts - 1)
    steps = np.tile([width / columns, height / rows], (len(uv), 1))
    n = len(uv)
    tangent = du.reshape(-1, 3) / np.maximum(np.linalg.norm(du.reshape(-1, 3), axis=1, keepdims=True), 1e-12)
    samples = Samples(
        points.reshape(-1, 3), tangent, normal.reshape(-1, 3), steps, uv, uv / size, np.full(n, index, dtype=np.int64)
    )
    _, block = np.unique(cell[:, 1] * cuts[0] + cell[:, 0], return_inverse=True)
    return samples, faces, block.reshape(-1)
