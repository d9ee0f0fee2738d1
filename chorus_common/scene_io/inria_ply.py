"""3DGS training output: one `vertex` row per Gaussian with logit opacity, log scales and harmonics.

Layout: graphdeco-inria/gaussian-splatting scene/gaussian_model.py, save_ply: x y z, nx ny nz (unused zeros),
f_dc_0..2, f_rest_* (any number, also none), opacity, scale_0..2, rot_0..3 (w, x, y, z). Conversions as SceneSplat
scripts/preprocess_gs.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.atomic import atomic_path
from chorus_common.scene import SH_C0, GaussianScene
from chorus_common.scene_io.bounds import MAX_GAUSSIANS, check_count, check_finite, fail, finish, scene_name, sigmoid
from chorus_common.scene_io.ply import PlyElement, PlyHeader, columns, numbered, read_ply_element

_XYZ, _DC, _NORMAL = ("x", "y", "z"), ("f_dc_0", "f_dc_1", "f_dc_2"), ("nx", "ny", "nz")
_SCALE, _ROT = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")

#: Written opacities stay this far from 0 and 1, where the logit is infinite.
_EPS = 1e-6


def is_inria(vertex: PlyElement) -> bool:
    """Whether a vertex element holds Gaussians rather than coloured points."""
    return "opacity" in vertex.properties and "scale_0" in vertex.properties


def read_inria_ply(
    path: Path, header: PlyHeader, *, max_gaussians: int = MAX_GAUSSIANS, label_space: str = ""
) -> GaussianScene:
    """Read the Gaussians of `path`. Normals that are all zero (INRIA's own) count as missing."""
    vertex = header.element("vertex")
    assert vertex is not None
    check_count(path, vertex.count, max_gaussians)
    if missing := [name for name in (*_XYZ, *_DC, "opacity", *_ROT) if name not in vertex.properties]:
        fail(path, f"vertices lack {', '.join(missing)}")
    scale_names = numbered(vertex.properties, "scale_")
    if len(scale_names) not in (2, 3):
        fail(path, f"vertices have {len(scale_names)} scales, expected 3 (or 2: flat 2DGS discs)")
    table = read_ply_element(path, header, "vertex")
    log_scales, logits = columns(table, scale_names), columns(table, ("opacity",))[:, 0]
    raw_quats, dc = columns(table, _ROT), columns(table, _DC)
    # before exp and clip, which would turn some of these into ordinary numbers
    check_finite(path, scale=log_scales, opacity=logits, rotation=raw_quats, f_dc=dc)
    scales = np.exp(np.minimum(log_scales, 80.0))
    if scales.shape[1] == 2:
        scales = np.column_stack([scales, scales.min(1) * 1e-3])  # a disc has no thickness; a Gaussian needs some
    extra: dict[str, Any] = {"label_space": label_space}
    if all(name in vertex.properties for name in _NORMAL):
        extra["normals"] = unit_normals(path, columns(table, _NORMAL))
    for column, value in id_columns(path, table, vertex).items():
        extra[column] = value
    return finish(
        path,
        means=columns(table, _XYZ), quats=raw_quats, scales=scales, opacities=sigmoid(logits),
        colors=dc * np.float32(SH_C0) + np.float32(0.5), name=scene_name(path), **extra,
    )  # fmt: skip


def write_ply(scene: GaussianScene, path: str | Path) -> Path:
    """Write `scene` in the INRIA layout (degree 0, little-endian) so that any viewer opens it.

    Labels, instances and parts follow as int properties, which viewers skip and our reader takes back.
    """
    path = Path(path)
    fields: dict[str, NDArray[Any]] = {}
    normals = scene.normals if scene.normals is not None else np.zeros_like(scene.means)
    opacities = np.clip(scene.opacities.astype(np.float64), _EPS, 1 - _EPS)
    for names, values in (
        (_XYZ, scene.means), (_NORMAL, normals), (_DC, (scene.colors.astype(np.float64) - 0.5) / SH_C0),
        (("opacity",), np.log(opacities / (1 - opacities))[:, None]),
        (_SCALE, np.log(scene.scales.astype(np.float64))), (_ROT, scene.quats),
    ):  # fmt: skip
        fields |= {name: values[:, i].astype("<f4") for i, name in enumerate(names)}
    ids = (("label", scene.labels), ("instance", scene.instances), ("part", scene.parts))
    fields |= {name: value.astype("<i4") for name, value in ids if value is not None}
    table = np.empty(len(scene), np.dtype([(name, value.dtype) for name, value in fields.items()]))
    for name, value in fields.items():
        table[name] = value
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(scene)}"]
    lines += [f"property {'float' if value.dtype.kind == 'f' else 'int'} {name}" for name, value in fields.items()]
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        handle.write(("\n".join([*lines, "end_header"]) + "\n").encode("ascii"))
        handle.write(table.tobytes())
    return path


#: Names under which per-point ids are found in the wild -> our column.
_ID_NAMES = {
    "label": "labels", "segment": "labels", "semantic": "labels", "instance": "instances", "part": "parts",
}  # fmt: skip


def id_columns(path: Path, table: NDArray[Any], vertex: PlyElement) -> dict[str, NDArray[np.int32]]:
    """Labels, instances and parts of a vertex table, as far as it has integer properties of those names."""
    found: dict[str, NDArray[np.int32]] = {}
    for name, column in _ID_NAMES.items():
        if column not in found and vertex.properties.get(name, "f")[0] in "iu":
            values = columns(table, (name,), np.int64)[:, 0]
            if len(values) and (values.min() < -(2**31) or values.max() >= 2**31):
                fail(path, f"{name} does not fit 32 bits")
            found[column] = values.astype(np.int32)
    return found


def unit_normals(path: Path, normals: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Normals [N, 3] scaled to unit length; None if any row is (nearly) zero, since half a column of normals helps
    nobody."""
    check_finite(path, normals=normals)
    length = np.linalg.norm(normals.astype(np.float64), axis=1)
    if length.min() < 1e-6:
        return None
    return (normals / length[:, None]).astype(np.float32)
