"""The cells of a picture, and which Gaussians are seen in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import ConfigError

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


@dataclass(frozen=True)
class CellGrid:
    """Square cells of `cell` pixels over a width x height picture; the last column and row may be partial.

    >>> grid = CellGrid(width=640, height=480, cell=16)
    >>> grid.rows, grid.cols, grid.cells
    (30, 40, 1200)
    """

    width: int
    height: int
    cell: int

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.cell) < 1:
            raise ConfigError(
                f"cell grid {self.width}x{self.height} with cells of {self.cell} px: all three must be at least 1"
            )

    @property
    def rows(self) -> int:
        return -(-self.height // self.cell)

    @property
    def cols(self) -> int:
        return -(-self.width // self.cell)

    @property
    def cells(self) -> int:
        """Cells per view; cell index = row * cols + column."""
        return self.rows * self.cols


@dataclass(frozen=True, eq=False)
class CellHits:
    """Blending weights of one view, summed per (cell, Gaussian); sorted by (cell, Gaussian id), no pair twice.

    cells [M] i32; gaussian_ids [M] i32 (index into the scene, not Morton order); weights [M] f32, > 0.
    """

    cells: I32
    gaussian_ids: I32
    weights: F32

    def __len__(self) -> int:
        return len(self.cells)
