"""What was measured of the voxels that the encoder sees: where they lie in their cuboid, and their colour.

Gaussians of voxels start from both, so that an encoder need not carry through all its layers what is known anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chorus_common.segments import segment_reduce
from stage2_distill.gaussiancross.cuboid import Cuboid


@dataclass(frozen=True, eq=False)
class MeasuredVoxels:
    """Voxels of a batch of clouds; places in the cuboid's coordinates.

    cells [N] i64: cell of the grid, cloud * cells + cell. centres [N, 3] f32: the voxels' points (`PointBatch.coord`).
    colors [N, 3] f32: mean over a voxel's points, without the noise that the encoder's input has. size [B, 3] f32.
    empty: for each cloud its cells without voxels, ascending i64 numbers within the cloud.
    """

    cells: Tensor
    centres: Tensor
    colors: Tensor
    size: Tensor
    empty: tuple[Tensor, ...]

    @staticmethod
    def of(
        centres: NDArray[np.floating], colors: NDArray[np.floating], inverse: NDArray[np.integer], voxel: float,
        cuboid: Cuboid, shape: tuple[int, int, int],
    ) -> MeasuredVoxels:  # fmt: skip
        """Of one cloud.

        Args: centres [N, 3] of voxels of edge `voxel`, metres; colors [P, 3] of its points and their voxel [P].
        """
        own = torch.from_numpy(colors.astype(np.float64)), torch.from_numpy(inverse.astype(np.int64))
        cells = cuboid.cells(centres, shape)
        return MeasuredVoxels(
            torch.from_numpy(cells),
            torch.from_numpy(cuboid.forward(centres).astype(np.float32)),
            segment_reduce(*own, len(centres), "mean").float(),
            torch.from_numpy((voxel / cuboid.size).astype(np.float32))[None],
            (torch.from_numpy(np.setdiff1d(np.arange(np.prod(shape)), cells)),),
        )

    @staticmethod
    def concatenate(parts: Sequence[MeasuredVoxels], count: int) -> MeasuredVoxels:
        """Of a batch; `count` cells per cloud."""
        return MeasuredVoxels(
            torch.cat([part.cells + b * count for b, part in enumerate(parts)]),
            torch.cat([part.centres for part in parts]),
            torch.cat([part.colors for part in parts]),
            torch.cat([part.size for part in parts]),
            tuple(empty for part in parts for empty in part.empty),
        )
