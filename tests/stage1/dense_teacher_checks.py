"""What every dense teacher made of a patch network must do, whatever the network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus_common.lifting import CellGrid
from stage1_render_teachers.teachers import DenseTeacher


def pictures(seed: int, n: int, width: int, height: int) -> NDArray[np.uint8]:
    """Smooth noise [n, height, width, 3]: something at every place, alike in no two."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (n, height // 8 + 2, width // 8 + 2, 3))
    return np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)[:, :height, :width].astype(np.uint8)


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosines of the last axis."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-12)


def most_changed_cell(teacher: DenseTeacher, grid: CellGrid, row: int, col: int) -> tuple[int, int]:
    """The cell whose feature changes most (by angle) when the pixels of cell (row, col) turn into stripes."""
    plain = np.full((1, grid.height, grid.width, 3), 110, dtype=np.uint8)
    marked = plain.copy()
    cell = marked[0, row * grid.cell : (row + 1) * grid.cell, col * grid.cell : (col + 1) * grid.cell]
    cell[...] = 255
    cell[::3] = 0
    change = cosine(teacher.features(plain, grid)[0], teacher.features(marked, grid)[0])
    return tuple(int(i) for i in np.unravel_index(change.argmin(), change.shape))  # type: ignore[return-value]


def check_geometry(teacher: DenseTeacher, cell: int) -> None:
    """A mark in one cell is found in that cell: whole cells, partial last cells, wide, tall."""
    for width, height, row, col in ((6, 4, 1, 4), (3, 5, 4, 0), (4.5, 3.25, 3, 4), (4.5, 3.25, 0, 4)):
        grid = CellGrid(round(width * cell), round(height * cell), cell)
        found = most_changed_cell(teacher, grid, row, col)
        assert found == (row, col), f"{grid}: a mark in {(row, col)} was found in {found}"


def check_contract(teacher: DenseTeacher, cell: int) -> None:
    """Shape, type, finite values, the same bytes twice, and no dependence on the other pictures of the batch."""
    grid = CellGrid(round(4.5 * cell), 3 * cell, cell)
    images = pictures(0, 3, grid.width, grid.height)
    features = teacher.features(images, grid)
    assert features.shape == (3, grid.rows, grid.cols, teacher.channels)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features, teacher.features(images, grid))
    alone = np.concatenate([teacher.features(image[None], grid) for image in images])
    assert cosine(features, alone).min() > 0.99999
    assert teacher.features(images[:0], grid).shape == (0, grid.rows, grid.cols, teacher.channels)
