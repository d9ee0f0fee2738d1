"""GaussianScene: the one in-memory form of a scene. Every reader returns it, everything downstream takes it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import SceneError

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

#: Degree-0 spherical harmonic; INRIA files store colour as (rgb - 0.5) / SH_C0.
SH_C0 = 0.28209479177387814


class RenderMode(StrEnum):
    """How the Gaussians were rasterised when they were trained, as far as their file tells.

    A scene that was trained with one of the other modes looks too thick or too bright under the classic one.
    """

    #: Kerbl et al. 2023: 0.3 square pixels are added to every projected covariance; opacities stay as they are.
    CLASSIC = "classic"
    #: The same, with the opacity scaled by the square root of the ratio of the determinants before and after
    #: (gsplat's rasterize_mode="antialiased", Postshot, the flag of .spz).
    ANTIALIASED = "antialiased"
    #: Mip-Splatting (Yu et al. 2024): as ANTIALIASED with 0.1 square pixels; its 3D filter is already in the scales.
    MIP = "mip"
    #: Flat discs (Huang et al. 2024, 2D Gaussian Splatting).
    DISCS = "2dgs"


@dataclass(frozen=True, eq=False)
class GaussianScene:
    """A set of N anisotropic 3D Gaussians in metres, z up where the source says so.

    Attributes (all numpy, C-contiguous):
        means      [N, 3] f32, centres in metres.
        quats      [N, 4] f32, unit quaternions (w, x, y, z) with w >= 0.
        scales     [N, 3] f32, standard deviations along the local axes in metres (linear, > 0).
        opacities  [N]    f32, in (0, 1) (linear).
        colors     [N, 3] f32, in [0, 1]: the DC term of the colour.
        harmonics  [N, K, 3] f32, the higher harmonics' coefficients (K = 3, 8, 15 or 24 for degrees 1 to 4), optional:
                   read only where they are asked for.
        normals    [N, 3] f32 unit vectors, optional.
        labels     [N]    i32, semantic class index in `label_space`, -1 unknown, optional.
        instances  [N]    i32, instance id, -1 unknown, optional.
        parts      [N]    i32, part id (meaning given by the data set), -1 unknown, optional.
        source_ids [N]    i64, row of the source file that each Gaussian came from. N never changes silently: whoever
                   drops Gaussians does it with `select`, which keeps this map.
        source_rows: how many rows the source file has; 0 stands for as many as there are Gaussians.
        outliers   [N]    bool, rows whose centre or size no scene can have (set by the readers), optional. They keep
                   their row; `validated` refuses them, `select(~outliers)` leaves them out.
        name, label_space: free text, e.g. "scannet20".
        render_mode: how the file's Gaussians are meant to be rasterised.

    >>> two = GaussianScene(
    ...     means=np.array([[0, 0, 0], [1, 0, 0]]), quats=np.array([[1, 0, 0, 0]] * 2), scales=np.full((2, 3), 0.1),
    ...     opacities=np.array([0.5, 0.9]), colors=np.array([[1, 0, 0], [0, 0, 1]]),
    ... )
    >>> len(two), two.means.dtype.name
    (2, 'float32')
    >>> two.select(np.array([1])).source_ids  # a row of the file it came from
    array([1])
    """

    means: F32
    quats: F32
    scales: F32
    opacities: F32
    colors: F32
    normals: F32 | None = None
    labels: I32 | None = None
    instances: I32 | None = None
    parts: I32 | None = None
    source_ids: I64 = field(default=None)  # type: ignore[arg-type]
    name: str = ""
    label_space: str = ""
    harmonics: F32 | None = None
    outliers: NDArray[np.bool_] | None = None
    render_mode: RenderMode = RenderMode.CLASSIC
    source_rows: int = 0

    def __post_init__(self) -> None:
        n = len(self.means)
        if self.source_ids is None:
            object.__setattr__(self, "source_ids", np.arange(n, dtype=np.int64))
        if self.source_rows == 0:
            object.__setattr__(self, "source_rows", max(n, int(np.max(self.source_ids, initial=-1)) + 1))
        for key, (width, dtype) in COLUMNS.items():
            value = getattr(self, key)
            if value is None:
                continue
            shape: tuple[int, ...] = (n, width) if width else (n,)
            if key == "harmonics":
                shape = (n, value.shape[1] if value.ndim == 3 else 0, 3)
            if value.shape != shape:
                raise SceneError(f"scene {self.name or '?'}: {key} has shape {value.shape}, expected {shape}")
            object.__setattr__(self, key, np.ascontiguousarray(value, dtype=dtype))

    def __len__(self) -> int:
        return len(self.means)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> GaussianScene:
        """The Gaussians at `rows` (a mask [N] or indices), in that order; `source_ids` still point at the file."""
        return replace(self, **{key: value[rows] for key in COLUMNS if (value := getattr(self, key)) is not None})

    def without_outliers(self) -> GaussianScene:
        """The Gaussians that no reader flagged, with their numbers in the file as `source_ids`."""
        return self if self.outliers is None else self.select(~self.outliers)

    def validated(self, *, max_extent: float = 1e5) -> GaussianScene:
        """Return self, or raise SceneError naming the scene and the first thing that no scene can have.

        Checks: at least one Gaussian; everything finite; no outliers; |means| <= max_extent; scales in (0, max_extent];
        unit quaternions; opacities and colours in range.
        """
        who = f"scene {self.name or '?'}"
        if len(self) == 0:
            raise SceneError(f"{who}: holds no Gaussians")
        for key in ("means", "quats", "scales", "opacities", "colors", "normals", "harmonics"):
            value = getattr(self, key)
            if value is not None and not np.isfinite(value).all():
                row = int(np.argwhere(~np.isfinite(value.reshape(len(value), -1)).all(1))[0, 0])
                raise SceneError(f"{who}: {key} is not finite at Gaussian {row}; repair or prune the file")
        if self.outliers is not None and self.outliers.any():
            row = int(np.argmax(self.outliers))
            size = max(np.abs(self.means[row]).max(), self.scales[row].max())
            raise SceneError(
                f"{who}: {np.count_nonzero(self.outliers)} Gaussians lie or reach further than {max_extent:g} m, first "
                f"row {row} with {size:.3g} m; leave them out with --outliers auto, or is the unit metres?"
            )
        reach, thin, thick = np.abs(self.means).max(), self.scales.min(), self.scales.max()
        if reach > max_extent:
            raise SceneError(f"{who}: centres reach {reach:.3g} m, more than {max_extent:g}; is the unit metres?")
        if thin <= 0 or thick > max_extent:
            raise SceneError(f"{who}: scales must lie in (0, {max_extent:g}] m, found {thin:.3g} to {thick:.3g}")
        if np.abs(np.linalg.norm(self.quats, axis=1) - 1).max() > 1e-3:
            raise SceneError(f"{who}: quaternions are not unit length")
        if (self.opacities < 0).any() or (self.opacities > 1).any():
            raise SceneError(f"{who}: opacities must lie in [0, 1]")
        if (self.colors < -1e-6).any() or (self.colors > 1 + 1e-6).any():
            raise SceneError(f"{who}: colours must lie in [0, 1]")
        return self


#: column -> (width, dtype); width 0 = one number per Gaussian
#: Every array of a scene: numbers per Gaussian (0: one, without an axis of its own) and their type.
COLUMNS: dict[str, tuple[int, type[np.generic]]] = {
    "means": (3, np.float32), "quats": (4, np.float32), "scales": (3, np.float32), "opacities": (0, np.float32),
    "colors": (3, np.float32), "normals": (3, np.float32), "labels": (0, np.int32), "instances": (0, np.int32),
    "parts": (0, np.int32), "source_ids": (0, np.int64), "harmonics": (3, np.float32), "outliers": (0, np.bool_),
}  # fmt: skip

assert set(COLUMNS) <= {f.name for f in fields(GaussianScene)}


def canonical_quats(quats: NDArray[np.floating]) -> F32:
    """Unit quaternions [N, 4] (w, x, y, z) with w >= 0; zero rows become the identity.

    The sign is flipped with `where(w < 0)`, not `sign(w)`: the latter turns w == 0 into the zero quaternion (SceneSplat
    scripts/preprocess_gs.py).
    """
    q = np.asarray(quats, dtype=np.float64)
    norm = np.linalg.norm(q, axis=1, keepdims=True)
    q = np.where(norm > 1e-12, q / np.maximum(norm, 1e-12), np.array([1.0, 0.0, 0.0, 0.0]))
    return np.ascontiguousarray(np.where(q[:, :1] < 0, -q, q), dtype=np.float32)


def quats_to_rotations(quats: NDArray[np.floating]) -> NDArray[np.floating]:
    """Rotation matrices [N, 3, 3] of unit quaternions [N, 4] (w, x, y, z); columns are the local axes in the world."""
    w, x, y, z = np.moveaxis(np.asarray(quats), -1, 0)
    return np.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ], axis=-1,
    ).reshape(*np.asarray(quats).shape[:-1], 3, 3)  # fmt: skip


def quat_product(quat: NDArray[np.floating], quats: NDArray[np.floating]) -> F32:
    """Hamilton products quat * quats[i], canonical, [N, 4] (w, x, y, z): each is turned by `quat` [4] afterwards."""
    w, x, y, z = quat
    matrix = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    return canonical_quats(quats @ matrix.T)
