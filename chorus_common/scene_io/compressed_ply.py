"""PlayCanvas compressed PLY: 16 bytes per Gaussian, ranges per chunk of 256.

Layout (playcanvas/splat-transform, write-compressed-ply; playcanvas/engine, gsplat-compressed-data.js): element
`chunk` holds min/max of the position, of the log scale, and (in the 18-float layout) of the colour; element `vertex`
holds packed_position and packed_scale (11-10-11 bits), packed_color (8-8-8-8: r, g, b, opacity), packed_rotation (2
bits: which of w, x, y, z is the largest; then the other three in 10 bits each over +-1/sqrt(2)). An optional `sh`
element carries higher harmonics: one byte per f_rest_* property, (byte + 0.5) / 256 - 0.5,
but 0 and 255 for the ends, times 8.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.scene import GaussianScene
from chorus_common.scene_io.bounds import MAX_GAUSSIANS, MIN_SCALE, check_count, check_finite, fail, finish, scene_name
from chorus_common.scene_io.inria_ply import id_columns, read_harmonics, render_mode
from chorus_common.scene_io.ply import PlyElement, PlyHeader, columns, read_ply_element

CHUNK = 256
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")


def is_compressed(vertex: PlyElement) -> bool:
    """Whether a vertex element is packed."""
    return "packed_position" in vertex.properties


def check_compressed(path: Path, header: PlyHeader) -> None:
    """Raise SceneError where the elements of a packed file do not belong together."""
    vertex, chunk = header.element("vertex"), header.element("chunk")
    assert vertex is not None
    if chunk is None:
        fail(path, "has packed vertices but no chunk element")
    if missing := [name for name in _PACKED if vertex.properties.get(name) != "u4"]:
        fail(path, f"vertices lack {', '.join(missing)} (uint)")
    if chunk.count != -(-vertex.count // CHUNK):
        fail(path, f"has {chunk.count} chunks for {vertex.count} vertices, expected one per {CHUNK}")


def read_compressed_ply(
    path: Path,
    header: PlyHeader,
    *,
    max_gaussians: int = MAX_GAUSSIANS,
    label_space: str = "",
    harmonics: bool = False,
) -> GaussianScene:
    """Read the Gaussians of `path`."""
    vertex, chunk = header.element("vertex"), header.element("chunk")
    assert vertex is not None
    check_count(path, vertex.count, max_gaussians)
    check_compressed(path, header)
    assert chunk is not None
    table, ranges = read_ply_element(path, header, "vertex"), read_ply_element(path, header, "chunk")
    packed = {name: columns(table, (name,), np.uint32)[:, 0] for name in _PACKED}
    colors = unpack_8888(packed["packed_color"])
    rgb = colors[:, :3]
    if "min_r" in chunk.properties:
        rgb = _lerp(path, rgb, ranges, chunk, ("min_r", "min_g", "min_b"), ("max_r", "max_g", "max_b"))
    position = [f"{end}_{axis}" for end in ("min", "max") for axis in "xyz"]
    scale = [f"{end}_scale_{axis}" for end in ("min", "max") for axis in "xyz"]
    unit_scales = unpack_111011(packed["packed_scale"])
    log_scales = _lerp(path, unit_scales, ranges, chunk, scale[:3], scale[3:], lowest=np.log(MIN_SCALE))
    extra: dict[str, Any] = id_columns(path, table, vertex)
    if harmonics and (element := header.element("sh")) is not None:
        if element.count != vertex.count:
            fail(path, f"has harmonics for {element.count} of {vertex.count} Gaussians")
        raw = read_harmonics(path, read_ply_element(path, header, "sh"), element)
        extra["harmonics"] = None if raw is None else unpack_harmonics(raw)
    return finish(
        path,
        means=_lerp(path, unpack_111011(packed["packed_position"]), ranges, chunk, position[:3], position[3:]),
        quats=unpack_rotation(packed["packed_rotation"]),
        scales=np.exp(np.minimum(log_scales, 80.0)),
        opacities=colors[:, 3],
        colors=rgb,
        name=scene_name(path),
        label_space=label_space,
        render_mode=render_mode(header.comments),
        **extra,
    )


def unpack_111011(packed: NDArray[np.uint32]) -> NDArray[np.float32]:
    """[N] u32 -> [N, 3] in [0, 1]: 11 bits x, 10 bits y, 11 bits z, from the top."""
    return np.stack([_unorm(packed, 21, 11), _unorm(packed, 11, 10), _unorm(packed, 0, 11)], axis=1)  # [N, 3]


def unpack_8888(packed: NDArray[np.uint32]) -> NDArray[np.float32]:
    """[N] u32 -> [N, 4] in [0, 1]: four bytes from the top."""
    return np.stack([_unorm(packed, shift, 8) for shift in (24, 16, 8, 0)], axis=1)  # [N, 4]


def unpack_harmonics(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bytes, as floats, to coefficients in [-4, 4]: the middle of each step, and the ends for 0 and 255."""
    unit = np.where(raw == 0, 0.0, np.where(raw == 255, 1.0, (raw + 0.5) / 256))
    return ((unit - 0.5) * 8).astype(np.float32)


def unpack_rotation(packed: NDArray[np.uint32]) -> NDArray[np.float32]:
    """[N] u32 -> quaternions [N, 4] (w, x, y, z): the largest component restored from the other three."""
    small = np.stack([_unorm(packed, shift, 10) for shift in (20, 10, 0)], axis=1)  # [N, 3]
    return largest_restored((small - np.float32(0.5)) * np.float32(np.sqrt(2.0)), (packed >> 30).astype(np.int64))


def largest_restored(small: NDArray[np.float32], largest: NDArray[np.int64]) -> NDArray[np.float32]:
    """Unit 4-vectors [N, 4] from three components [N, 3] in order and the index [N] of the missing, positive, largest
    one."""
    missing = np.sqrt(np.maximum(0.0, 1.0 - (small * small).sum(1)))
    out = np.empty((len(small), 4), np.float32)
    for index in range(4):
        rows = largest == index
        rest = [i for i in range(4) if i != index]
        out[np.ix_(rows, rest)] = small[rows]
        out[rows, index] = missing[rows]
    return out


def _unorm(packed: NDArray[np.uint32], shift: int, bits: int) -> NDArray[np.float32]:
    top = (1 << bits) - 1
    return ((packed >> shift) & top).astype(np.float32) / np.float32(top)


def _lerp(
    path: Path,
    unit: NDArray[np.float32],
    ranges: NDArray[Any],
    chunk: PlyElement,
    low: Any,
    high: Any,
    lowest: float = -np.inf,
) -> NDArray[np.float32]:
    """`unit` [N, 3] in [0, 1] spread over its chunk's range, no end of which lies below `lowest`."""
    if missing := [name for name in (*low, *high) if name not in chunk.properties]:
        fail(path, f"chunks lack {', '.join(missing)}")
    a, b = np.maximum(columns(ranges, low), lowest), np.maximum(columns(ranges, high), lowest)
    check_finite(path, chunk_range=a)
    check_finite(path, chunk_range=b)
    rows = np.arange(len(unit)) // CHUNK
    return np.asarray(a[rows] * (1 - unit) + b[rows] * unit, np.float32)
