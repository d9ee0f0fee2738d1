"""A scene's splats in about ten bytes each, for a browser: sorted along a Morton curve, quantised, deflated.

Compared with .spz and .sog the rows are sorted, so that places are small differences, and every quantity has its own
plane. `web/decode.js` is the reader. Harmonics are left out: a splat has one colour.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.rasterize.rules import low_pass
from chorus_common.scene import GaussianScene

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

#: Bits of a coordinate at most: three of them fit the 53 bits of a number in JavaScript.
MOST_BITS = 17
#: Steps of a coordinate per median size of a Gaussian.
_STEPS_PER_SIZE = 8
#: Levels of a logarithm of a scale, of a colour, of an opacity, and of a quaternion's component.
_SCALE_LEVELS, _COLOUR_LEVELS, _OPACITY_LEVELS, _QUAT_LEVELS = 128, 128, 64, 128


@dataclass(frozen=True, eq=False)
class PackedSplats:
    """order [N] i64: the scene's row of every packed row; header: what the reader must know; blocks: name -> bytes."""

    order: I64
    header: dict[str, Any]
    blocks: dict[str, bytes]


def pack_splats(scene: GaussianScene) -> PackedSplats:
    """Pack `scene`, N >= 1. Raises SceneError for flat discs, which are drawn in another way.

    A coordinate is asinh((x - centre) / size), quantised: even steps within the scene, wider ones for what lies far
    away. The steps are an eighth of the median Gaussian. Scales have steps of at most 10 %, green and rotations 7 bits,
    red and blue 6, opacities 6.
    """
    filter_ = low_pass(scene)
    codes, place = _places(scene)
    order = np.argsort(codes, kind="stable")
    steps = np.diff(codes[order], prepend=0)
    most = int(steps.max(initial=0))
    columns = [((steps >> (8 * k)) & 255).astype(np.uint8) for k in range(max(1, (most.bit_length() + 7) // 8))]
    scales, scale = _scales(scene.scales[order])
    colours = _levels(scene.colors[order], _COLOUR_LEVELS).astype(np.int64)
    red, green, blue = colours.T
    blocks = {
        "place": deflated(columns),
        "scale": deflated(list(scales.T)),
        "turn": deflated(_turns(scene.quats[order].astype(np.float64))),
        "colour": deflated([differences(c) for c in (green, (red - green) >> 1, (blue - green) >> 1)]),
        "opacity": deflated([_levels(scene.opacities[order], _OPACITY_LEVELS)]),
    }
    header = {
        "rows": len(scene),
        "place": place,
        "scale": scale,
        "levels": {"colour": _COLOUR_LEVELS, "opacity": _OPACITY_LEVELS, "turn": _QUAT_LEVELS},
        "eps2d": filter_.eps2d,
        "compensated": filter_.compensated,
    }
    return PackedSplats(order, header, blocks)


def deflated(planes: list[U8]) -> bytes:
    """Planes of one byte per row, one after the other, as the shorter zlib stream of two strategies."""
    data = np.concatenate(planes).tobytes()
    streams = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED):  # repeats pay, or only the values' frequencies do
        packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)
        streams.append(packer.compress(data) + packer.flush())
    return min(streams, key=len)


def differences(values: NDArray[np.integer]) -> U8:
    """[N] as differences from the row before, modulo 256: neighbours along the curve are alike."""
    steps = values.astype(np.int64)
    steps[1:] -= steps[:-1].copy()
    return (steps & 255).astype(np.uint8)


def unpack_places(packed: PackedSplats) -> F64:
    """Centres [N, 3] of the packed rows as the browser gets them: what quantising costs can be measured."""
    place, rows = packed.header["place"], packed.header["rows"]
    planes = np.frombuffer(zlib.decompress(packed.blocks["place"]), np.uint8).reshape(-1, rows).astype(np.int64)
    codes = np.cumsum(sum(plane << (8 * k) for k, plane in enumerate(planes)))
    cells = np.zeros((rows, 3), np.int64)
    for bit in range(place["bits"]):
        for axis in range(3):
            cells[:, axis] |= ((codes >> (3 * bit + axis)) & 1) << bit
    return np.asarray(place["centre"] + place["size"] * np.sinh(place["low"] + cells * place["step"]))


def _places(scene: GaussianScene) -> tuple[I64, dict[str, Any]]:
    """Morton codes [N] of the quantised centres, and how they are read."""
    means = scene.means.astype(np.float64)
    centre = np.median(means, axis=0)
    size = max(float(np.percentile(np.abs(means - centre), 95, axis=0).max()), 1e-6)
    bent = np.arcsinh((means - centre) / size)
    low = bent.min(axis=0)
    reach = max(float((bent.max(axis=0) - low).max()), 1e-9)
    typical = float(np.median(np.exp(np.log(scene.scales.astype(np.float64)).mean(axis=1))))
    wanted = reach * size * _STEPS_PER_SIZE / max(typical, 1e-9)
    bits = int(np.clip(np.ceil(np.log2(max(wanted, 2.0))), 8, MOST_BITS))
    step = reach / (2**bits - 1)
    cells = np.rint((bent - low) / step).astype(np.int64)
    codes = np.zeros(len(means), np.int64)
    for bit in range(bits):
        for axis in range(3):
            codes |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    read = {"bits": bits, "centre": centre.tolist(), "size": size, "low": low.tolist(), "step": step}
    return codes, read


def _scales(scales: NDArray[np.float32]) -> tuple[U8, dict[str, float]]:
    logs = np.log(scales.astype(np.float64))
    low, high = np.percentile(logs, [0.1, 99.9])
    step = max(float(high - low) / (_SCALE_LEVELS - 1), 1e-6)
    step = max(step, min(0.1, step * 2))  # a tenth is fine enough
    return np.rint((logs - low) / step).clip(0, 255).astype(np.uint8), {"low": float(low), "step": step}


def _turns(quats: F64) -> list[U8]:
    """The place of the largest component, and the other three, whose signs make the largest positive."""
    largest = np.abs(quats).argmax(axis=1)
    rows = np.arange(len(quats))
    signed = quats * np.where(quats[rows, largest] < 0, -1.0, 1.0)[:, None]
    others = np.stack([signed[rows, (largest + k) % 4] for k in (1, 2, 3)], axis=1)
    return [largest.astype(np.uint8), *_levels(others * np.sqrt(0.5) + 0.5, _QUAT_LEVELS).T]


def _levels(values: NDArray[np.floating], levels: int) -> U8:
    """[0, 1] as 0 to levels - 1."""
    return np.rint(np.clip(values, 0, 1) * (levels - 1)).astype(np.uint8)
