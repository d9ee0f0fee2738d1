"""3DGS training output: one `vertex` row per Gaussian with logit opacity, log scales and harmonics.

Layout: graphdeco-inria/gaussian-splatting scene/gaussian_model.py, save_ply: x y z, nx ny nz (unused zeros),
f_dc_0..2, f_rest_* (any number, also none; all of red, then green, then blue), opacity, scale_0..2, rot_0..3
(w, x, y, z). Conversions as SceneSplat scripts/preprocess_gs.py. What other programs do differently:

    red green blue         in place of f_dc_*: colours over 255 (exporters for point cloud viewers)
    scale_0, scale_1       flat discs (2D Gaussian Splatting)
    scale_0 alone          balls (SplaTAM); rot_* may then be missing
    filter_3D              Mip-Splatting's 3D filter in metres, not yet part of scales and opacity
    infinities             opacity logits and log scales of bytes 0 and 255: opacity 0 or 1, the smallest scale
    comments               `SplatRenderMode: mip|2dgs` (Brush), `antialiased 1` (Postshot): how it was rasterised
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.harmonics import SH_SIZES
from chorus_common.runtime.atomic import atomic_path
from chorus_common.runtime.errors import SceneError
from chorus_common.scene import SH_C0, GaussianScene, RenderMode
from chorus_common.scene_io.bounds import (
    MAX_GAUSSIANS,
    check_count,
    check_finite,
    check_not_nan,
    fail,
    finish,
    scene_name,
    sigmoid,
)
from chorus_common.scene_io.ply import PlyElement, PlyHeader, columns, numbered, read_ply_element
from chorus_common.scene_io.point_gaussians import unit_colors

_XYZ, _DC, _NORMAL = ("x", "y", "z"), ("f_dc_0", "f_dc_1", "f_dc_2"), ("nx", "ny", "nz")
_SCALE, _ROT = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")
#: Names of plain colours, in the order in which they are looked for.
RGB = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
_FILTER = "filter_3D"
_IDENTITY = np.array([1, 0, 0, 0], np.float32)

#: Written opacities stay this far from 0 and 1, where the logit is infinite.
_EPS = 1e-6


@dataclass(frozen=True)
class InriaLayout:
    """Which properties of a vertex element hold what.

    colors: three f_dc_*, or three plain colours (`plain`); scales: 1, 2 or 3 names; rotation: 4 names, or none for
    balls.
    """

    colors: tuple[str, ...]
    plain: bool
    scales: tuple[str, ...]
    rotation: tuple[str, ...]
    filtered: bool


def is_inria(vertex: PlyElement) -> bool:
    """Whether a vertex element holds Gaussians rather than coloured points."""
    return "opacity" in vertex.properties and "scale_0" in vertex.properties


def inria_layout(path: Path, vertex: PlyElement) -> InriaLayout:
    """The layout of the Gaussians in `vertex`. Raises SceneError naming what is missing."""
    has = vertex.properties
    plain = next((names for names in RGB if all(name in has for name in names)), None)
    use_plain = plain is not None and not all(name in has for name in _DC)
    scales = tuple(numbered(has, "scale_"))
    if scales not in (_SCALE[:1], _SCALE[:2], _SCALE):
        fail(
            path, f"vertices have the scales {', '.join(scales)}; expected scale_0 to scale_2 (flat discs: to scale_1)"
        )
    needed = [*_XYZ, *(() if use_plain else _DC), "opacity", *(() if len(scales) == 1 else _ROT)]
    if missing := [name for name in needed if name not in has]:
        fail(path, f"vertices lack {', '.join(missing)}")
    rotation = _ROT if all(name in has for name in _ROT) else ()
    return InriaLayout(
        plain if use_plain and plain is not None else _DC, use_plain, scales, rotation, filtered=_FILTER in has
    )


def read_inria_ply(
    path: Path,
    header: PlyHeader,
    *,
    max_gaussians: int = MAX_GAUSSIANS,
    label_space: str = "",
    harmonics: bool = False,
) -> GaussianScene:
    """Read the Gaussians of `path`. Normals that are all zero (INRIA's own) count as missing."""
    vertex = header.element("vertex")
    assert vertex is not None
    check_count(path, vertex.count, max_gaussians)
    layout = inria_layout(path, vertex)
    table = read_ply_element(path, header, "vertex")
    log_scales, logits = columns(table, layout.scales), columns(table, ("opacity",))[:, 0]
    quats = columns(table, layout.rotation) if layout.rotation else np.tile(_IDENTITY, (len(table), 1))
    colors = _colors(path, table, vertex, layout)
    # before exp and clip, which would turn some of these into ordinary numbers
    check_not_nan(path, scale=log_scales, opacity=logits)
    check_finite(path, rotation=quats)
    scales, opacities = np.exp(np.minimum(log_scales, 80.0)), sigmoid(logits)
    if len(layout.scales) == 1:
        scales = np.repeat(scales, 3, axis=1)
    if layout.filtered:
        scales, opacities = fused_filter(path, scales, opacities, columns(table, (_FILTER,)))
    if len(layout.scales) == 2:
        scales = np.column_stack([scales, scales.min(1) * 1e-3])  # a disc has no thickness; a Gaussian needs some
    extra: dict[str, Any] = {"label_space": label_space, "render_mode": render_mode(header.comments, layout)}
    if all(name in vertex.properties for name in _NORMAL):
        extra["normals"] = unit_normals(path, columns(table, _NORMAL))
    if harmonics:
        extra["harmonics"] = read_harmonics(path, table, vertex)
    for column, value in id_columns(path, table, vertex).items():
        extra[column] = value
    return finish(
        path,
        means=columns(table, _XYZ), quats=quats, scales=scales, opacities=opacities, colors=colors,
        name=scene_name(path), **extra,
    )  # fmt: skip


def _colors(path: Path, table: NDArray[Any], vertex: PlyElement, layout: InriaLayout) -> NDArray[np.float32]:
    """Colours [N, 3] about [0, 1]."""
    if not layout.plain:
        dc = columns(table, layout.colors)
        check_finite(path, f_dc=dc)
        return dc * np.float32(SH_C0) + np.float32(0.5)
    # an ascii table is parsed as floats: the declared type, not the parsed one, says what range the colours have
    raw = columns(table, layout.colors, np.dtype(vertex.properties[layout.colors[0]]).type)
    check_finite(path, color=raw)
    try:
        return unit_colors(raw)
    except SceneError as error:
        fail(path, str(error))


def fused_filter(
    path: Path, scales: NDArray[np.float32], opacities: NDArray[np.float32], sizes: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scales [N, k] and opacities [N] with Mip-Splatting's 3D filter of `sizes` [N, 1] metres in them.

    s' = sqrt(s^2 + f^2) and o' = o sqrt(prod s^2 / prod s'^2), as Mip-Splatting's save_fused_ply computes them (Yu et
    al. 2024, eq. 9).
    """
    check_finite(path, filter_3D=sizes)
    square = scales.astype(np.float64) ** 2
    fused = square + sizes.astype(np.float64) ** 2
    shrink = np.sqrt(np.prod(square / np.maximum(fused, 1e-300), axis=1))
    return np.sqrt(fused).astype(np.float32), (opacities * shrink).astype(np.float32)


def render_mode(comments: tuple[str, ...], layout: InriaLayout | None = None) -> RenderMode:
    """How the Gaussians of a file with these comments and columns were rasterised; the last comment counts.

    Two scales outrank what a comment says; a 3D filter stands for Mip-Splatting where no comment does.
    """
    if layout is not None and len(layout.scales) == 2:
        return RenderMode.DISCS
    found = RenderMode.MIP if layout is not None and layout.filtered else RenderMode.CLASSIC
    for comment in comments:
        match comment.lower().replace(":", " : ").split():
            case ["splatrendermode", ":", "mip"]:
                found = RenderMode.MIP
            case ["splatrendermode", ":", "antialiased"] | ["antialiased"] | ["antialiased", "1" | "true"]:
                found = RenderMode.ANTIALIASED
            case ["antialiased", ":", "1" | "true"]:
                found = RenderMode.ANTIALIASED
            case ["splatrendermode", ":", "2dgs"]:
                found = RenderMode.DISCS
            case ["splatrendermode", ":", "default" | "classic"] | ["antialiased", "0" | "false"]:
                found = RenderMode.CLASSIC
    return found


def mode_comments(mode: RenderMode) -> list[str]:
    """The header comments that say `mode`, in the spelling of the programs that read them."""
    return {
        RenderMode.MIP: ["SplatRenderMode: mip"],
        RenderMode.DISCS: ["SplatRenderMode: 2dgs"],
        RenderMode.ANTIALIASED: ["antialiased 1"],
    }.get(mode, [])


def read_harmonics(path: Path, table: NDArray[Any], vertex: PlyElement) -> NDArray[np.float32] | None:
    """The f_rest_* of a vertex table as [N, K, 3]; None where there are none. Stored channel after channel."""
    names = numbered(vertex.properties, "f_rest_")
    if not names:
        return None
    k, odd = divmod(len(names), 3)
    if odd or k not in SH_SIZES.values():
        fail(path, f"has {len(names)} f_rest_* properties, which is no whole degree of harmonics (9, 24, 45 or 72)")
    return np.ascontiguousarray(columns(table, names).reshape(-1, 3, k).transpose(0, 2, 1))  # [N, K, 3]


def ply_columns(scene: GaussianScene) -> dict[str, NDArray[Any]]:
    """The properties of `scene` in the INRIA layout, in its order: name -> [N] little-endian f32 or i32."""
    fields: dict[str, NDArray[Any]] = {}
    normals = scene.normals if scene.normals is not None else np.zeros_like(scene.means)
    opacities = np.clip(scene.opacities.astype(np.float64), _EPS, 1 - _EPS)
    rest = np.zeros((len(scene), 0), np.float32)
    if scene.harmonics is not None:
        rest = scene.harmonics.transpose(0, 2, 1).reshape(len(scene), -1)  # [N, 3 K], channel after channel
    for names, values in (
        (_XYZ, scene.means), (_NORMAL, normals), (_DC, (scene.colors.astype(np.float64) - 0.5) / SH_C0),
        ([f"f_rest_{i}" for i in range(rest.shape[1])], rest),
        (("opacity",), np.log(opacities / (1 - opacities))[:, None]),
        (_SCALE, np.log(scene.scales.astype(np.float64))), (_ROT, scene.quats),
    ):  # fmt: skip
        fields |= {name: values[:, i].astype("<f4") for i, name in enumerate(names)}
    ids = (("label", scene.labels), ("instance", scene.instances), ("part", scene.parts))
    return fields | {name: values.astype("<i4") for name, values in ids if values is not None}


def write_ply(scene: GaussianScene, path: str | Path) -> Path:
    """Write `scene` in the INRIA layout (with its harmonics, little-endian) so that any viewer opens it.

    Labels, instances and parts follow as int properties, which viewers skip and our reader takes back as ground truth:
    predictions go into the user's own file under names of their own (source_properties.py).
    """
    path = Path(path)
    fields = ply_columns(scene)
    table = np.empty(len(scene), np.dtype([(name, value.dtype) for name, value in fields.items()]))
    for name, value in fields.items():
        table[name] = value
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {c}" for c in mode_comments(scene.render_mode))]
    lines += [f"element vertex {len(scene)}"]
    lines += [f"property {'float' if value.dtype.kind == 'f' else 'int'} {name}" for name, value in fields.items()]
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        handle.write(("\n".join([*lines, "end_header"]) + "\n").encode("ascii"))
        handle.write(table.tobytes())
    return path


#: Names under which per-point ids are found in the wild -> our column.
_ID_NAMES = {
    "label": "labels", "segment": "labels", "semantic": "labels", "instance": "instances", "part": "parts",
}  # fmt: skip
TRUTH_NAMES = frozenset(_ID_NAMES)
#: Every property that a reader of .ply files makes something of, but ids and harmonics beyond the first.
PLY_NAMES = frozenset(
    {*_XYZ, *_DC, *_NORMAL, *_SCALE, *_ROT, "opacity", _FILTER, *(name for names in RGB for name in names),
     "normal_x", "normal_y", "normal_z", "packed_position", "packed_rotation", "packed_scale", "packed_color"}
)  # fmt: skip


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
