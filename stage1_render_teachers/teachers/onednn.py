"""Matrix products through oneDNN where torch would ask its BLAS, which reaches half of the speed on some processors.

torch sends a linear layer of fp32 on a CPU to the BLAS it was built with (MKL); on AMD processors oneDNN, which torch
also carries and uses for convolutions, is about twice as fast. Its linear layer is reached by the operator that
torch's own compiler calls. Everything falls back to plain products: on other devices, under autocast, or in a build
without the operator.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _available(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.numel() > 0
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """x [..., K] times weight [N, K] transposed, plus bias [N], through exact GELU where asked: [..., N]."""
    if _available(x):
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], "none")
        return out
    out = F.linear(x, weight, bias)
    return F.gelu(out) if gelu else out


def products(x: Tensor, y: Tensor) -> Tensor:
    """x [P, M, K] times y [P, N, K] transposed, pair by pair: [P, M, N]."""
    if _available(x):
        return _stack([linear(a, b) for a, b in zip(x, y)])
    return x @ y.transpose(1, 2)


def add_products(base: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """base [P, M, N] + x [P, M, K] times y [P, N, K] transposed, pair by pair: [P, M, N]."""
    if _available(x):
        add = torch.ops.mkldnn._linear_pointwise.binary
        return _stack([add(a, c, b, None, "add") for a, b, c in zip(x, y, base)])
    return torch.baddbmm(base, x, y.transpose(1, 2))


def _stack(parts: list[Tensor]) -> Tensor:
    return parts[0][None] if len(parts) == 1 else torch.stack(parts)
