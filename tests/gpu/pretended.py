"""A pretended CUDA device: real numbers on the CPU with the tag "cuda".

Code whose sizes depend on its data runs to the end on it, and what a card would refuse or wait for is noticed.
`PretendedCuda` is a dispatch mode. Inside it `tensor.to("cuda")` and `torch.zeros(3, device="cuda")` give tensors whose
device is cuda:0 and whose numbers lie on the CPU. It refuses operators over tensors of both devices (except CPU scalars
of no dimension, which CUDA kernels take), operators that have no CUDA kernel, and conversions to numpy. It records all
that makes the host wait for the device (`Synchronisation`), by the function of ours that asked for it. Copies to the
device that do not wait (`non_blocking=True`) are none.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

ROOT = Path(__file__).parents[2]
PACKAGES = ("chorus_common", "stage1_render_teachers", "stage2_distill", "evaluation", "data_manifests")
CUDA = torch.device("cuda", 0)

aten = torch.ops.aten

#: operators whose result's size, or whose own launch, the host learns from the device (torch 2.11 to 2.14, eager)
_WAITS = {
    aten._local_scalar_dense: "one number read",
    aten.nonzero: "nonzero",
    aten.masked_select: "masked_select",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.unique_consecutive: "unique",
    aten.bincount: "bincount (reads smallest and largest)",
    aten.equal: "equal",
    aten.multinomial: "multinomial",
    aten._linalg_svd: "svd",
    aten._linalg_eigh: "eigh",
}
#: operators that torch's C++ gives a fresh tensor of its own, which to C++ belongs where all others are
_FED_BY_TORCH = (aten._sparse_addmm,)
#: attention as torch's C++ picks it for what it takes to be tensors of the CPU
_CHOSEN_FOR_THE_CPU = (
    aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_flash_attention_for_cpu_backward,
)  # fmt: skip
_INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._unsafe_index)
_COPIES = (aten._to_copy, aten.copy_)


#: Devices that running calls of `Tensor.to` asked for. What autograd's own formulas name is the device of C++.
_ASKED: list[str] = []


@dataclass(frozen=True, order=True)
class Synchronisation:
    """Where the host waits: `file`:`function` of ours, and what for."""

    file: str
    function: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.function}: {self.what}"


class CudaTensor(Tensor):
    """A tensor that says it is on cuda:0; `held` are its numbers on the CPU. To torch's C++ it is a CPU tensor:
    autograd would ask a driver for its streams otherwise.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> CudaTensor:
        strides: tuple[int, ...] | None = None
        if held.layout == torch.strided:
            strides = held.stride()
        elif held.layout == torch.sparse_csr:  # says that it is dense: torch has no wrappers of this layout
            strides = torch.empty(held.shape, device="meta").stride()
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls, held.size(), strides=strides,
            storage_offset=held.storage_offset() if held.layout == torch.strided else None,
            layout=torch.sparse_coo if held.layout == torch.sparse_coo else torch.strided, dtype=held.dtype,
            device=held.device, requires_grad=held.requires_grad,
        )  # fmt: skip

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:  # type: ignore[override]
        return f"CudaTensor({self.held})"

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def layout(self) -> torch.layout:  # type: ignore[override]
        return self.held.layout

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
        return _to(self, ("cpu",), {})

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on a tensor of the pretended device, outside of pretended_cuda")


class _Functions(TorchFunctionMode):
    """What torch settles in C++ before it dispatches: where new tensors go, and copies that look like none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and _device(kwargs.get("device")) == "cuda":
            return _to(func(*args, **(kwargs | {"device": None})), (CUDA,), {})
        if func is Tensor.new_tensor and isinstance(args[0], CudaTensor) and kwargs.get("device") is None:
            return _to(torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)), (CUDA,), {})
        if func in (torch.sparse_coo_tensor, torch.sparse_csr_tensor):
            return _sparse(func, args, kwargs)
        if func is Tensor.to and sys._getframe(1).f_code.co_filename.endswith("torch/nn/utils/clip_grad.py"):
            return args[0]  # to the device that C++ told it; on a card that is the tensor's own
        if func is Tensor.to:
            return _to(args[0], args[1:], kwargs)
        if func is Tensor.cuda:
            return _to(args[0], (CUDA,), {})
        return func(*args, **kwargs)


def _to(source: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """`Tensor.to`, which sees no difference between a pretended tensor and one of the CPU."""
    device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **{k: v for k, v in kwargs.items() if k != "copy"})
    if args and isinstance(args[0], Tensor):
        device, dtype = args[0].device, args[0].dtype
    target = source.device if device is None else device
    same = target.type == source.device.type and (dtype is None or dtype == source.dtype)
    if same and not kwargs.get("copy", False):
        return source
    _ASKED.append(target.type)
    try:
        return torch.ops.aten._to_copy(source, dtype=dtype, device=target, non_blocking=non_blocking)
    finally:
        _ASKED.pop()


def _sparse(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """A sparse tensor is made of its parts by a constructor that is not dispatched."""
    device = kwargs.pop("device", None)
    parts = [x for x in args if isinstance(x, Tensor)]
    there = isinstance(parts[-1], CudaTensor) if device is None else _device(device) == "cuda"
    if not there:
        return func(*args, **kwargs)
    on_device = [x if isinstance(x, CudaTensor) else _to(x, (CUDA,), {}) for x in parts]
    assert all(isinstance(x, CudaTensor) for x in parts) or device is not None, f"{func.__name__} of both devices"
    rest = [x for x in args if not isinstance(x, Tensor)]
    return CudaTensor(func(*_map(on_device), *rest, **kwargs))


class PretendedCuda(TorchDispatchMode):
    """The mode; `waits` counts the synchronisations since `clear`."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[Synchronisation] = Counter()

    def clear(self) -> None:
        """Forget what was recorded."""
        self.waits.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        packet = func.overloadpacket
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        here = [x for x in tensors if isinstance(x, CudaTensor)]
        there = [x for x in tensors if not isinstance(x, CudaTensor)]
        wanted = _device(kwargs.get("device"))
        if not here and wanted != "cuda" and _ASKED[-1:] != ["cuda"]:
            return func(*args, **kwargs)
        if packet in _COPIES:
            return self._copy(func, args, kwargs)
        strangers = [x for x in there if x.ndim > 0]
        if here and strangers and packet not in _FED_BY_TORCH:
            if packet in _INDEXING and isinstance(args[0], CudaTensor):
                self._record("an index copied to the device")
            else:
                raise AssertionError(f"{func} over tensors of cuda and of the CPU, at {_place()}")
        if torch.version.cuda and not _runs_on_cuda(func, packet):
            raise AssertionError(f"{func} has no CUDA kernel, at {_place()}")
        reason = _reason(packet, func, args, kwargs)
        if reason:
            self._record(reason)
        if wanted == "cuda":
            kwargs["device"] = torch.device("cpu")
        held = func(*_map(args), **_map(kwargs))
        if packet is aten._local_scalar_dense:
            return held
        wrapped = tree_map(lambda x: CudaTensor(x) if type(x) is Tensor else x, held)
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if here else wrapped

    def _copy(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func.overloadpacket is aten.copy_:
            into, source = args[0], args[1]
            if isinstance(into, CudaTensor) != isinstance(source, CudaTensor) and source.ndim > 0:
                self._transfer(to_device=isinstance(into, CudaTensor), waits=not (len(args) > 2 and args[2]))
            func(*_map(args), **_map(kwargs))
            return into
        source = args[0]
        own = "cuda" if isinstance(source, CudaTensor) else "cpu"
        target = _ASKED[-1] if _ASKED else own
        if isinstance(source, CudaTensor) != (target == "cuda"):
            self._transfer(to_device=target == "cuda", waits=not kwargs.get("non_blocking", False))
        held = func(*_map(args), **(kwargs | {"device": torch.device("cpu"), "non_blocking": False}))
        return CudaTensor(held) if target == "cuda" else held

    def _transfer(self, *, to_device: bool, waits: bool) -> None:
        if not to_device:
            self._record("a copy to the host")
        elif waits:
            self._record("a copy to the device")

    def _record(self, what: str) -> None:
        self.waits[Synchronisation(*_place(), what)] += 1


@cache
def _runs_on_cuda(func: Any, packet: Any) -> bool:
    """Whether this PyTorch has a CUDA kernel of an operator, or makes it of others."""
    keys = ("CUDA", "SparseCUDA", "SparseCsrCUDA", "CompositeExplicitAutograd", "CompositeImplicitAutograd")
    extra = ("CompositeExplicitAutogradNonFunctional",)
    found = (torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key) for key in (*keys, *extra))  # type: ignore[attr-defined]
    return packet in _CHOSEN_FOR_THE_CPU or any(found)


def _map(tree: Any) -> Any:
    return tree_map(lambda x: x.held if isinstance(x, CudaTensor) else x, tree)


def _device(device: Any) -> str | None:
    return None if device is None else torch.device(device).type


def _reason(packet: Any, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    if packet in _WAITS:
        return _WAITS[packet]
    if packet in _INDEXING and any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in args[1]):
        return "indexing by a mask"
    if packet is aten.repeat_interleave and kwargs.get("output_size") is None:
        return "repeat_interleave without output_size"
    return None


def _place() -> tuple[str, str]:
    """File and function of ours that is running."""
    frame = sys._getframe(2)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] in PACKAGES:
            return str(file.relative_to(ROOT)), frame.f_code.co_qualname
        frame = frame.f_back  # type: ignore[assignment]
    return "?", "?"


class _Autocast(torch.autocast):
    """Autocast of the pretended device: to torch its tensors are on the CPU."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu", *args, **kwargs)


@contextmanager
def pretended_cuda() -> Iterator[PretendedCuda]:
    """Inside, "cuda" is a device: it seems to be there, and autocast works on it."""
    enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_dtype
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch, "autocast", _Autocast)
        patch.setattr(torch, "inference_mode", torch.no_grad)  # views of wrappers need version counters
        patch.setattr(torch, "is_autocast_enabled", lambda *device: enabled("cpu"))
        patch.setattr(torch, "get_autocast_dtype", lambda device: dtype("cpu"))
        for check in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            patch.setattr(torch.optim.Optimizer, check, lambda self: None, raising=False)
        # modules get new parameters when they move, as they cannot change the class of those they have
        patch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
        with PretendedCuda() as mode, _Functions():
            yield mode
