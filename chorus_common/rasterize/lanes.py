"""The inner loop of blending as vector code: one splat over some rows of a tile, 16 pixels of a row at a time.

numba compiles scalar loops and leaves vectors to the compiler, which checks before every row that no two of the arrays
overlap and loads everything anew. Here the vectors are written out for LLVM: a splat's constants are spread over the
lanes once, and the weights of all rows of a cell are summed in registers. LLVM splits the 16 lanes where a processor
has fewer. The same arithmetic in plain Python is `plain_blend_rows` in tests/chorus_common/rasterize/test_lanes.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from chorus_common.rasterize import rules
from chorus_common.rasterize.splats import (
    BLUE,
    DEPTH,
    GREEN,
    MEAN_X,
    MEAN_Y,
    OPACITY,
    RED,
    ROW_CURVATURE,
    ROW_SIGMA,
    ROW_SLOPE,
)

#: Pixels of a row that are blended at once, and edge of the largest tile.
LANES = 16
#: Size of one plane of a tile's state: LANES rows of LANES pixels. The planes are transmittance, red, green, blue and
#: depth, in this order.
PLANE = LANES * LANES
PLANES = 5

#: Relative minimax polynomial of exp on [-0.7, 0], error 6e-8; raised to the 8th power below.
_EXP = (0.99999994, 0.9999914765, 0.4998707473, 0.1659310609, 0.0397088304, 0.0058131367)
#: exp is only needed where alpha can reach MIN_ALPHA, that is on [-5.55, 0].
MAX_SIGMA = 5.6

_FLOAT, _LONG = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_FUSED = ("contract",)


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [float(np.float32(value))] * LANES)


def _spread(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """`value` in every lane."""
    undefined, index = ir.Constant(_VECTOR, ir.Undefined), ir.IntType(32)
    one = builder.insert_element(undefined, value, ir.Constant(index, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(index, LANES), [0] * LANES))


def _multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """a b + c, fused where the processor can."""
    return builder.fadd(builder.fmul(a, b, flags=_FUSED), c, flags=_FUSED)


def _smaller(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _exp_neg(builder: ir.IRBuilder, sigma: ir.Value) -> ir.Value:
    """exp(-sigma) for sigma in [0, 5.6], relative error below 2e-6 (float32); larger sigma give exp(-5.6)."""
    s = builder.fmul(_smaller(builder, sigma, _constant(MAX_SIGMA)), _constant(-0.125))
    p: ir.Value = _constant(_EXP[-1])
    for coefficient in _EXP[-2::-1]:
        p = _multiply_add(builder, s, p, _constant(coefficient))
    for _ in range(3):
        p = builder.fmul(p, p)
    return p


class _Array:
    """Floats of a contiguous numba array, by index."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: types.Array, value: ir.Value) -> None:
        self._builder = builder
        self._data = context.make_array(kind)(context, builder, value).data

    def __getitem__(self, index: int | ir.Value) -> ir.Value:
        return self._builder.load(self._builder.gep(self._data, [_index(index)]))

    def lanes(self, index: int | ir.Value) -> ir.Value:
        """Pointer to 16 floats from `index` on."""
        return self._builder.bitcast(self._builder.gep(self._data, [_index(index)]), ir.PointerType(_VECTOR))


def _index(index: int | ir.Value) -> ir.Value:
    return ir.Constant(_LONG, index) if isinstance(index, int) else index


def _load(builder: ir.IRBuilder, pointer: ir.Value) -> ir.Value:
    return builder.load(pointer, align=4)


@intrinsic
def exp_neg(typing: Any, values: Any) -> Any:
    """Replace 16 float32 sigmas by exp(-sigma)."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        pointer = _Array(context, builder, signature.args[0], arguments[0]).lanes(0)
        builder.store(_exp_neg(builder, _load(builder, pointer)), pointer, align=4)
        return context.get_dummy_value()

    return types.void(values), codegen


@intrinsic
def blend_rows(
    typing: Any, state: Any, splat: Any, first: Any, last: Any, x0: Any, y0: Any, shares: Any, into: Any, fresh: Any
) -> Any:
    """Blend one splat into rows [first, last) of a tile, by points 3 and 4 of rules.py.

    Args (of the call in compiled code):
        state f32: the tile's planes, then whatever the caller keeps. A pixel that has stopped has its transmittance
            with the sign flipped: any further step leaves it negative, so that it takes no weight and needs no flag.
        splat [16] f32: see splats.py. first, last u64: rows of the tile.
        x0, y0 f32: centre of the tile's first pixel in the picture, px. Distances are formed from whole-picture
            coordinates, so that a pixel's bits do not depend on where tiles lie.
        shares [2 * LANES] f32: what each row gives to its cell row and to the next one.
        into u64: 16 weights of the cell row from here on are added to, or overwritten where `fresh` (bool) says so; the
            next 16 are overwritten by what the next cell row gets.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        b = builder
        tile = _Array(context, b, signature.args[0], arguments[0])
        of_splat = _Array(context, b, signature.args[1], arguments[1])
        share = _Array(context, b, signature.args[6], arguments[6])
        start, stop, left, top, at, from_zero = (arguments[k] for k in (2, 3, 4, 5, 7, 8))
        mean_x, mean_y, row_sigma, row_slope = (of_splat[k] for k in (MEAN_X, MEAN_Y, ROW_SIGMA, ROW_SLOPE))
        opacity, curvature = (_spread(b, of_splat[k]) for k in (OPACITY, ROW_CURVATURE))
        values = [_spread(b, of_splat[k]) for k in (RED, GREEN, BLUE, DEPTH)]
        x = b.fadd(ir.Constant(_VECTOR, [float(k) for k in range(LANES)]), _spread(b, left))
        low, high = cgutils.alloca_once(b, _VECTOR), cgutils.alloca_once(b, _VECTOR)
        b.store(b.select(from_zero, _constant(0), _load(b, tile.lanes(at))), low)
        b.store(_constant(0), high)
        with cgutils.for_range_slice(b, start, stop, ir.Constant(_LONG, 1), _LONG) as (row, _):
            dy = b.fsub(b.fadd(b.uitofp(row, _FLOAT), top), mean_y)
            nearest_x = _multiply_add(b, dy, row_slope, mean_x)
            dx = b.fsub(x, _spread(b, nearest_x))
            nearest = _spread(b, b.fmul(b.fmul(dy, dy), row_sigma))
            sigma = _multiply_add(b, b.fmul(curvature, dx), dx, nearest)
            alpha = _smaller(b, b.fmul(opacity, _exp_neg(b, sigma)), _constant(rules.MAX_ALPHA))
            here = b.mul(row, ir.Constant(_LONG, LANES))
            before = _load(b, tile.lanes(here))
            weight = b.fmul(before, alpha)
            after = b.fsub(before, weight)
            counts = b.fcmp_ordered(">=", alpha, _constant(rules.MIN_ALPHA))
            goes_on = b.fcmp_ordered(">", after, _constant(rules.MIN_TRANSMITTANCE))
            weight = b.select(b.and_(counts, goes_on), weight, _constant(0))
            stopped = _smaller(b, before, b.fneg(before))
            rest = b.select(counts, b.select(goes_on, after, stopped), before)
            b.store(rest, tile.lanes(here), align=4)
            for plane, value in enumerate(values, start=1):
                pointer = tile.lanes(b.add(here, ir.Constant(_LONG, plane * PLANE)))
                b.store(_multiply_add(b, weight, value, _load(b, pointer)), pointer, align=4)
            to_low, to_high = share[row], share[b.add(row, ir.Constant(_LONG, LANES))]
            b.store(_multiply_add(b, _spread(b, to_low), weight, b.load(low)), low)
            b.store(_multiply_add(b, _spread(b, to_high), weight, b.load(high)), high)
        b.store(b.load(low), tile.lanes(at), align=4)
        b.store(b.load(high), tile.lanes(b.add(at, ir.Constant(_LONG, LANES))), align=4)
        return context.get_dummy_value()

    f32, u64 = types.float32, types.uint64
    return types.void(state, splat, u64, u64, f32, f32, shares, u64, types.boolean), codegen
