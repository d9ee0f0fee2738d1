"""Which library multiplies matrices in inference on a CPU.

torch's own fp32 products on x86 are MKL's, which keeps to its AVX2 code on CPUs that Intel did not make. oneDNN, which
torch holds as well, goes by what the CPU says that it can do: on a Zen 5 it is 2.2 times as fast. Within
`fast_products` products run there. Sums are rounded in another order, so results differ in the last bits; which library
is taken depends on the CPU alone, so they are the same in every run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from chorus_common.runtime.cpu import cpu_facts

#: oneDNN compiles a kernel for every number of rows: callers with many of them round up to this.
ROUNDED_ROWS = 128
#: Narrower products gain nothing.
_NARROWEST = 32

_active: ContextVar[bool] = ContextVar("onednn_products", default=False)


@contextmanager
def fast_products(device: torch.device | str = "cpu", *, library: str = "auto") -> Iterator[None]:
    """Inside, fp32 products without gradients run in the library that is fastest on this CPU.

    library: "onednn" or "torch" instead of what the CPU decides ("auto").
    """
    wanted = onednn_is_faster() if library == "auto" else library == "onednn"
    if not wanted or torch.device(device).type != "cpu" or _active.get():
        yield
        return
    token = _active.set(True)
    try:
        with _OneDnn():
            yield
    finally:
        _active.reset(token)


def rounds_rows() -> bool:
    """Whether products run in oneDNN here, so that numbers of rows should be rounded up to `ROUNDED_ROWS`."""
    return _active.get()


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this CPU has AVX-512 and MKL makes no use of it."""
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and cpu_facts()[0] not in ("", "GenuineIntel")
    )


class _OneDnn(TorchFunctionMode):
    """Sends `linear` and `mm` to oneDNN where it can take them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and not kwargs and _takes(args[0], args[1]):
            x, weight = args[:2]
            bias = args[2] if len(args) > 2 else None
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        if func is torch.mm and _takes(args[0], args[1]):
            result = torch.ops.mkldnn._linear_pointwise(args[0], args[1].t(), None, "none", [], "")
            return result if kwargs.get("out") is None else kwargs["out"].copy_(result)
        return func(*args, **kwargs)


def _takes(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and x.dtype is weight.dtype is torch.float32
        and x.device.type == weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and min(weight.shape) >= _NARROWEST
        and len(x) > 0
    )
