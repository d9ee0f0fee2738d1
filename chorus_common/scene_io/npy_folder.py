"""SceneSplat's folder of .npy files, read and written.

Layout (SceneSplat scripts/preprocess_gs.py and its data set classes): coord f32 [N,3] m, color u8 [N,3] (floats are
taken, too), opacity f32 [N] linear, scale f32 [N,3] m linear, quat f32 [N,4] wxyz with w >= 0; optional normal f32
[N,3], segment* i16 [N], instance i16 [N] or [N,k] (first column used), and our part i16 [N]. Other files of the folder
(lang_feat, pc_*) are not scene geometry and are left alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.atomic import atomic_path
from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene
from chorus_common.scene_io.bounds import MAX_GAUSSIANS, check_count, fail, finish, scene_name
from chorus_common.scene_io.inria_ply import unit_normals
from chorus_common.scene_io.npy import open_npy
from chorus_common.scene_io.point_gaussians import unit_colors

#: Label file -> label space it holds, in the order in which a folder with several of them is searched.
SEGMENT_FILES = {
    "segment": "", "segment20": "scannet20", "segment200": "scannet200", "segment_nyu_160": "matterport160",
    "segment_matterport21": "matterport21", "segment_mpcat40": "mpcat40",
}  # fmt: skip

_REQUIRED = {"coord": (3,), "color": (3,), "opacity": (), "scale": (3,), "quat": (4,)}


def is_npy_folder(path: Path) -> bool:
    """Whether `path` is a folder of this layout."""
    return (path / "coord.npy").is_file()


def count_npy_folder(path: Path) -> int:
    """Number of Gaussians, from the header of coord.npy alone."""
    array = open_npy(path / "coord.npy")
    return len(array) if array.ndim else 0


def names_label_space(path: Path, label_space: str) -> bool:
    """Whether the folder has labels that say themselves that they are of `label_space`; "segment" could be any."""
    return any(space == label_space and (path / f"{key}.npy").is_file() for key, space in SEGMENT_FILES.items())


def scene_files(label_space: str = "") -> tuple[tuple[str, ...], ...]:
    """Names of the files that `read_npy_folder` reads, in groups of which it takes the first that there is."""
    named = [key for key, space in SEGMENT_FILES.items() if space == label_space] if label_space else []
    segments = (*named, "segment") if label_space else tuple(SEGMENT_FILES)
    alone = [(key,) for key in (*_REQUIRED, "normal", "instance", "part")]
    return tuple(tuple(f"{key}.npy" for key in group) for group in (*alone, segments))


def read_npy_folder(path: Path, *, max_gaussians: int = MAX_GAUSSIANS, label_space: str = "") -> GaussianScene:
    """Read the folder at `path`. `label_space` chooses among several segment files; "" takes the first one there is."""
    columns: dict[str, NDArray[Any]] = {}
    n = -1
    for key, tail in _REQUIRED.items():
        file = path / f"{key}.npy"
        if not file.is_file():
            fail(path, f"has no {key}.npy; a scene folder needs {', '.join(_REQUIRED)}")
        array = open_npy(file)
        if key == "opacity" and array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]  # some exporters keep the [N, 1] of the training tensors
        if n < 0:
            n = len(array) if array.ndim else 0
            check_count(path, n, max_gaussians)
        _check_shape(file, array, (n, *tail), "fiu")
        columns[key] = array
    color = columns["color"]
    # floats from harmonics overshoot 0 and 1 a little; far beyond 1 they are 0 to 255 that someone converted
    if color.dtype.kind != "f" or color.max() > 2:
        try:
            color = unit_colors(color)
        except SceneError as error:
            fail(path / "color.npy", str(error))
    extra: dict[str, Any] = {"label_space": label_space}
    if (file := path / "normal.npy").is_file():
        normals = np.array(_check_shape(file, open_npy(file), (n, 3), "f"), np.float32)
        unit = unit_normals(file, normals)
        # what is unit already stays as it is, to the bit
        extra["normals"] = normals if unit is not None and np.abs(unit - normals).max() < 1e-3 else unit
    if (segment := _segment_file(path, label_space)) is not None:
        extra["labels"] = _ids(path / f"{segment}.npy", n)
        extra["label_space"] = label_space or SEGMENT_FILES[segment]
    for key, column in (("instance", "instances"), ("part", "parts")):
        if (file := path / f"{key}.npy").is_file():
            extra[column] = _ids(file, n)
    return finish(
        path,
        # copies: a scene must not change, or vanish under a mapping, when its file is written anew
        means=np.array(columns["coord"], np.float32),
        quats=np.asarray(columns["quat"], np.float32),
        scales=np.asarray(columns["scale"], np.float32),
        opacities=np.array(columns["opacity"], np.float32),
        colors=np.asarray(color, np.float32),
        name=scene_name(path),
        **extra,
    )


def write_npy_folder(scene: GaussianScene, folder: str | Path) -> Path:
    """Write `scene` as a SceneSplat folder; each file appears whole or not at all.

    Colours are rounded to u8 (SceneSplat truncates, which loses a step at each round trip). Labels go to segment.npy,
    instances and parts beside it; optional files of an earlier scene in the same folder are removed, so that none
    outlives its rows.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[Any] | None] = {
        "color": np.rint(np.clip(scene.colors, 0, 1) * 255).astype(np.uint8),
        "opacity": scene.opacities, "scale": scene.scales, "quat": scene.quats, "normal": scene.normals,
        "segment": _narrow(scene.labels), "instance": _narrow(scene.instances), "part": _narrow(scene.parts),
    }  # fmt: skip
    for key in (*arrays, *SEGMENT_FILES):
        if arrays.get(key) is None:
            (folder / f"{key}.npy").unlink(missing_ok=True)
    # coord last: a folder counts as a scene once it has coord.npy
    for key, array in [*arrays.items(), ("coord", scene.means)]:
        if array is not None:
            with atomic_path(folder / f"{key}.npy") as temporary, open(temporary, "wb") as handle:
                np.save(handle, np.ascontiguousarray(array), allow_pickle=False)
    return folder


def _narrow(ids: NDArray[np.int32] | None) -> NDArray[Any] | None:
    """int16 as SceneSplat stores it, or int32 where the ids do not fit."""
    if ids is None:
        return None
    fits = len(ids) == 0 or (ids.min() >= -32768 and ids.max() <= 32767)
    return ids.astype(np.int16 if fits else np.int32)


def _segment_file(path: Path, label_space: str) -> str | None:
    there = [key for key in SEGMENT_FILES if (path / f"{key}.npy").is_file()]
    named = [key for key in there if label_space and SEGMENT_FILES[key] == label_space]
    if named:
        return named[0]
    if label_space and "segment" not in there:
        return None  # another label space's file: its ids would be read as the wrong classes
    return there[0] if there else None


def _ids(file: Path, n: int) -> NDArray[np.int32]:
    array = open_npy(file)
    if array.ndim == 2 and array.shape[1] >= 1:
        array = array[:, 0]  # S3DIS keeps (N, 1), ScanNet++ (N, k) with the first column in use
    _check_shape(file, array, (n,), "iu")
    if array.dtype.itemsize > 4 and len(array) and (array.min() < -(2**31) or array.max() >= 2**31):
        fail(file, "ids do not fit 32 bits")
    return np.array(array, np.int32)


def _check_shape(file: Path, array: NDArray[Any], shape: tuple[int, ...], kinds: str) -> NDArray[Any]:
    if array.shape != shape:
        fail(file, f"has shape {array.shape}, expected {shape}")
    if array.dtype.kind not in kinds:
        fail(file, f"has type {array.dtype}, expected {'numbers' if 'f' in kinds else 'integers'}")
    return array
