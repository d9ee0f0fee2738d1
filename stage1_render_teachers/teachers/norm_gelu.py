"""Layer norm and GELU in one pass over the data, where torch makes three (two of them into fresh memory)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch.nn.functional as F
from numba import njit
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from torch import Tensor, nn

#: erf(z) is taken as 1 from here on (it is within 4e-7), and below as z times a polynomial in z^2, also within 4e-7.
REACH, DEGREE = 3.6, 14


def _erf_polynomial() -> tuple[np.float32, ...]:
    """Coefficients of erf(z) / z in t = 2 z^2 / REACH^2 - 1, highest power first: the Chebyshev fit."""
    t = np.cos((np.arange(400) + 0.5) * np.pi / 400)
    z = REACH * np.sqrt((t + 1) / 2)
    values = np.array([math.erf(x) / x for x in z])
    fit = chebyshev.cheb2poly(chebyshev.chebfit(t, values, DEGREE))
    return tuple(np.float32(a) for a in fit[::-1])


ERF = _erf_polynomial()


def norm_gelu(x: Tensor, norm: nn.LayerNorm, act: nn.Module) -> Tensor:
    """act(layer norm over the channels of x [..., C]), `act` an exact GELU; on a CPU written over x."""
    plain = isinstance(act, nn.GELU) and act.approximate == "none"
    if not plain or x.device.type != "cpu" or x.dtype != norm.weight.dtype or not x.is_contiguous():
        out: Tensor = act(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
        return out
    rows = x.view(-1, x.shape[-1]).numpy()
    _in_place(rows, norm.weight.detach().numpy(), norm.bias.detach().numpy(), np.float32(norm.eps))
    return x


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})
def _in_place(x: NDArray[Any], gain: NDArray[Any], bias: NDArray[Any], eps: Any) -> None:
    """x [R, C] f32, gain and bias [C]."""
    count, channels = x.shape
    half, one = np.float32(0.5), np.float32(1)
    reach, inverse = np.float32(REACH), np.float32(math.sqrt(0.5))
    to_t = np.float32(2 / REACH**2)
    for i in range(count):
        row = x[i]
        total = np.float32(0)
        for c in range(channels):
            total += row[c]
        mean = total / np.float32(channels)
        total = np.float32(0)
        for c in range(channels):
            total += (row[c] - mean) * (row[c] - mean)
        shrink = one / np.sqrt(total / np.float32(channels) + eps)
        for c in range(channels):
            y = (row[c] - mean) * shrink * gain[c] + bias[c]
            z = min(max(y * inverse, -reach), reach)
            t = z * z * to_t - one
            quotient = ERF[0]
            for k in range(1, DEGREE + 1):  # constants: the compiler unrolls it and works on whole vectors of channels
                quotient = quotient * t + ERF[k]
            row[c] = half * y * (one + z * quotient)
