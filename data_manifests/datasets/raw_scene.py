"""What every release reader returns: points with labels, Gaussians with labels, or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet
from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene

I16 = NDArray[np.int16]
I32 = NDArray[np.int32]


@dataclass(frozen=True)
class SceneSource:
    """A scene of a release before it is read.

    Attributes:
        scene_id, split: plain words.
        path: the scan's folder, or the file that stands for it.
        files: every file that `read` looks at; their names, sizes and times tell whether the scene has changed.
    """

    scene_id: str
    split: str
    path: Path
    files: tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class Annotations:
    """Labels of rows (points or Gaussians).

    Attributes:
        segments: label space -> [N] i16, class index or -1.
        instances: [N] i32, -1 = no object; None where the release has none.
        annotated: [N] whether anybody annotated the row; those without a class are then outside the label space. None
            where the release does not tell the two apart.
    """

    segments: Mapping[str, I16] = field(default_factory=dict)
    instances: I32 | None = None
    annotated: NDArray[np.bool_] | None = None

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Annotations:
        """The annotations of `rows`."""
        return Annotations(
            {space: labels[rows] for space, labels in self.segments.items()},
            None if self.instances is None else self.instances[rows],
            None if self.annotated is None else self.annotated[rows],
        )

    def check(self, who: str, n: int) -> Annotations:
        """Self, or SceneError where an array does not have `n` rows."""
        for what, array in (*self.segments.items(), ("instances", self.instances), ("annotated", self.annotated)):
            if array is not None and array.shape != (n,):
                raise SceneError(f"{who}: {what} has shape {array.shape} for {n} points")
        return self


@dataclass(frozen=True, eq=False)
class LabelledPoints:
    """The points that a benchmark scores, in the release's own order and frame.

    coord [M, 3] f32 metres; color [M, 3] u8, None where the release has Gaussians and points without colours; normal
    [M, 3] f32 unit vectors or None.
    """

    coord: NDArray[np.float32]
    color: NDArray[np.uint8] | None
    normal: NDArray[np.float32] | None
    truth: Annotations

    def __len__(self) -> int:
        return len(self.coord)


@dataclass(frozen=True, eq=False)
class RawScene:
    """A scene as its release has it.

    Attributes:
        points: the scored points, or None.
        gaussians: trained Gaussians in the points' frame, or None: they are then made from the points.
        labels: annotations of `gaussians` where the release has them.
        cameras: the scan's own, or None.
        notes: what was odd and how it was read, one line each.
    """

    points: LabelledPoints | None = None
    gaussians: GaussianScene | None = None
    labels: Annotations | None = None
    cameras: CameraSet | None = None
    notes: tuple[str, ...] = ()
