"""Test-time rotations: a scene encoded at several yaw angles, and what the views of it say on average.

Which way a room faces says nothing about what is in it, but it decides where voxels and patches are cut. The mean over
angles keeps what all of them agree on. One rotation is the scene as it is.

Angles are multiples of the golden angle: spread evenly whatever their number, and no two of them cut the same voxels. A
circle in equal parts does that badly where it matters most: a quarter rotation about the middle maps the grid of voxels
onto itself (figures in docs/guide/open-vocabulary.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from chorus_common.rotations import middle, rotate, rotation_about
from chorus_common.scene import GaussianScene
from stage2_distill.encode import Blocks, VoxelFeatures, encode_voxels
from stage2_distill.encoder import Encoder
from stage2_distill.student import Student

#: 360 (1 - 1 / golden ratio) = 137.5 degrees, in radians.
GOLDEN_ANGLE = np.pi * (3 - 5**0.5)


def rotated_scenes(scene: GaussianScene, tta_rotations: int) -> Iterator[GaussianScene]:
    """`scene` at 0, 1, ... times the golden angle about the vertical through the middle of its box; first as it is."""
    yield scene
    for i in range(1, tta_rotations):
        yield rotate(scene, rotation_about("z", i * GOLDEN_ANGLE), middle(scene))


@dataclass(frozen=True)
class TtaFeatures:
    """An encoder's output for a scene, once per angle; rows are the scene's Gaussians in its own order."""

    angles: tuple[VoxelFeatures, ...]

    def __len__(self) -> int:
        return len(self.angles[0].voxel)

    def mean(self, start: int = 0, stop: int | None = None) -> Tensor:
        """[stop - start, D] f32: mean output over the angles."""
        first, *others = (angle.rows(start, stop) for angle in self.angles)
        return sum(others, first) / len(self.angles)

    @torch.no_grad()
    def in_teacher_space(self, student: Student, teacher: str, start: int = 0, stop: int | None = None) -> Tensor:
        """[stop - start, C] f32 on the CPU: what `student` predicts for `teacher`, in the teacher's own space.

        The mean is one of directions in the standardised space, where every channel weighs the same and none holds the
        teacher's mean, then mapped back as for a single angle (`Student.unstandardise`).
        """
        device = next(student.parameters()).device
        angles = (angle.rows(start, stop).to(device) for angle in self.angles)
        first, *others = (F.normalize(student.project(teacher, latent), dim=-1) for latent in angles)
        return student.unstandardise(teacher, sum(others, first)).float().cpu()


def encode_tta(
    encoder: Encoder,
    scene: GaussianScene,
    tta_rotations: int = 1,
    *,
    absent: tuple[str, ...] = (),
    blocks: Blocks | None = None,
) -> TtaFeatures:
    """`scene` encoded at `tta_rotations` >= 1 angles (see `rotated_scenes` and `encode_voxels`)."""
    angles = []
    for i, rotated in enumerate(rotated_scenes(scene, tta_rotations)):
        of_angle = None if blocks is None else replace(blocks, scratch=blocks.scratch / f"rotation{i}")
        angles.append(encode_voxels(encoder, rotated, absent=absent, blocks=of_angle))
    return TtaFeatures(tuple(angles))
