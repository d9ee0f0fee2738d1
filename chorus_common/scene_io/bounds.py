"""What every reader checks before it believes a file: size, count, finiteness, range.

A header is a claim made by whoever wrote the file. Nothing is allocated until the claim fits the bytes on disk, so a
hostile hundred-byte header cannot ask for gigabytes, and every refusal is one line that names the file (and the row,
where there is one).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene, canonical_quats

#: Default cap on the Gaussians of one file: 20 million take about 1.4 GB in memory.
MAX_GAUSSIANS = 20_000_000

#: Centres and scales beyond this many metres belong to no scene.
MAX_EXTENT = 1e5

#: Scales are lifted to this many metres: exp() of a very negative log scale underflows to 0, and 0 has no inverse.
MIN_SCALE = float(np.exp(-20.0))


def fail(path: Path, problem: str) -> NoReturn:
    """Raise the one-line SceneError of a bad file."""
    raise SceneError(f"{path}: {problem}")


def check_count(path: Path, count: int, max_gaussians: int, what: str = "Gaussians") -> None:
    """Refuse empty files and counts beyond the cap."""
    if count < 1:
        fail(path, f"holds no {what}")
    if count > max_gaussians:
        fail(
            path, f"declares {count} {what}, more than the limit of {max_gaussians}; raise max_gaussians if it is real"
        )


def check_fits(path: Path, count: int, stride: int, available: int, what: str) -> None:
    """Refuse a table of `count` rows of `stride` bytes that `available` bytes cannot hold (Python ints: no
    overflow)."""
    if count < 0 or count * stride > available:
        fail(
            path,
            f"{what} declares {count} rows of {stride} bytes but only {max(available, 0)} bytes are there; truncated?",
        )


def check_finite(path: Path, **columns: NDArray[Any] | None) -> None:
    """Refuse NaN and infinity, naming the column and its first bad row.

    Must run before values are clipped or normalised.
    """
    for key, value in columns.items():
        # the sum of a finite column is finite (or overflows, and then the exact check decides): one cheap pass, no mask
        if value is None or value.dtype.kind != "f" or np.isfinite(value.sum(dtype=np.float64)):
            continue
        good = np.isfinite(value.reshape(len(value), -1)).all(1)
        if not good.all():
            fail(path, f"{key} is not finite at row {int(np.argmin(good))}; repair or prune the file")


def finish(
    path: Path,
    *,
    means: NDArray[Any],
    quats: NDArray[Any],
    scales: NDArray[Any],
    opacities: NDArray[Any],
    colors: NDArray[Any],
    name: str,
    **extra: Any,
) -> GaussianScene:
    """Checked GaussianScene from decoded columns (linear scales and opacities, colours about [0, 1], quats of any
    length).

    Refuses what no scene can have; clips colours to [0, 1], lifts scales to `MIN_SCALE`, makes the quaternions
    canonical. Rows that lie or reach too far are kept and flagged (`outliers`): one row does not condemn a file.
    """
    check_finite(path, means=means, quats=quats, scales=scales, opacities=opacities, colors=colors)
    check_finite(path, normals=extra.get("normals"), harmonics=extra.get("harmonics"))
    if scales.min() < 0:
        fail(path, f"scale of row {int(np.argmin(scales.min(1)))} is negative")
    if (outliers := too_far(means, scales)) is not None:
        extra["outliers"] = outliers
    if opacities.min() < 0 or opacities.max() > 1:
        row = int(np.argmax(np.maximum(-opacities, opacities - 1)))
        fail(path, f"opacity of row {row} is {opacities[row]:.3g}, not in [0, 1]")
    return GaussianScene(
        means=np.asarray(means, np.float32),
        quats=canonical_quats(quats),
        scales=np.maximum(np.asarray(scales, np.float32), np.float32(MIN_SCALE)),
        opacities=np.asarray(opacities, np.float32),
        colors=np.clip(np.asarray(colors, np.float32), 0.0, 1.0),
        name=name,
        **extra,
    )


def too_far(means: NDArray[Any], scales: NDArray[Any] | None = None) -> NDArray[np.bool_] | None:
    """Which rows [N] lie or reach beyond `MAX_EXTENT`; None where none does."""
    far = (np.abs(means) > MAX_EXTENT).any(1)
    if scales is not None:
        far |= (scales > MAX_EXTENT).any(1)
    return far if far.any() else None


def sigmoid(x: NDArray[Any]) -> NDArray[np.float32]:
    """1 / (1 + exp(-x)) without overflow for large negative x; exactly 0 and 1 at minus and plus infinity."""
    value = 1.0 / (1.0 + np.exp(-np.clip(x, -80.0, 80.0)))
    return np.where(np.isneginf(x), 0.0, value).astype(np.float32)


def check_not_nan(path: Path, **columns: NDArray[Any]) -> None:
    """Refuse NaN, naming the column and its first bad row: for columns whose activation takes infinities."""
    for key, value in columns.items():
        bad = np.isnan(value.reshape(len(value), -1)).any(1)
        if bad.any():
            fail(path, f"{key} is not a number at row {int(np.argmax(bad))}; repair or prune the file")


def scene_name(path: Path) -> str:
    """The scene's name: the file's or folder's name without its (possibly double) suffix."""
    name = path.name
    for suffix in (".compressed.ply", ".ply", ".splat", ".spz", ".sog", ".ksplat", ".glb", ".gltf", ".npy", ".npz"):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name
