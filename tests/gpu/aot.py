"""Every Triton kernel of ours compiled ahead of time, for GPUs that are not here.

`python -m tests.gpu.aot` prints the table of docs/experiments/gpu.md. What is compiled is what is launched: types and
constants are taken from the calls that the product makes. Triton's own ptxas makes machine code, and cuobjdump, which
comes along with it, says what the code needs. No GPU, driver or toolkit is needed.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from chorus_common.lifting import CellGrid
from chorus_common.rasterize import tile_weights as kernels
from chorus_common.rasterize.gsplat_cuda import TILE, cell_weights

#: Ampere, Hopper, Blackwell (data centre)
ARCHITECTURES = (80, 90, 100)
#: What a picture may look like: whole tiles, and cut ones at both borders.
PICTURES = ((640, 480), (1297, 840))
_TYPES = {torch.float32: "*fp32", torch.int64: "*i64", torch.int32: "*i32"}


@dataclass(frozen=True)
class Launch:
    """A launch of a kernel: the type of every argument, and the constants among them."""

    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        return "tile_weights, " + ", ".join(f"{k} = {v}" for k, v in self.constants if k != "TILE")


@dataclass(frozen=True)
class Needs:
    """What one compiled kernel needs: 32-bit registers per thread, spilled bytes per thread, bytes of shared memory per
    block (the kilobyte that every block has from CUDA 12 on not counted), threads per block, bytes of machine code.
    """

    registers: int
    spilled: int
    shared: int
    threads: int
    code: int


class _Recorder:
    """In place of the kernel: notes how it is called."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.launches = kernel, set[Launch]()

    def __getitem__(self, grid: Any) -> Any:
        return self._call

    def _call(self, *args: Any, **constants: int) -> None:
        names = self.kernel.arg_names
        types = [(name, _type(value)) for name, value in zip(names, args)]
        self.launches.add(Launch(tuple(types), tuple(sorted(constants.items()))))


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return _TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


@cache
def launches() -> tuple[Launch, ...]:
    """All launches of `tile_weights` that differ to the compiler, over all cells and both interpolations."""
    recorder = _Recorder(kernels.tile_weights)
    with patch.object(kernels, "tile_weights", recorder):
        for width, height in PICTURES:
            tiles = -(-width // TILE) * -(-height // TILE)
            starts = torch.arange(tiles + 1, dtype=torch.int32)
            flat = torch.zeros(tiles, dtype=torch.int32)
            for cell in range(1, 17):
                for bilinear in (False, True):
                    grid = CellGrid(width, height, cell)
                    cell_weights(
                        torch.zeros(1, 2), torch.zeros(1, 3), torch.zeros(1), starts, flat, grid, bilinear, 0.9
                    )
    return tuple(sorted(recorder.launches, key=lambda launch: launch.constants))


def compiled(launch: Launch, architecture: int) -> Needs:
    """What the kernel of a launch needs on an architecture (80 = sm_80)."""
    signature = dict(launch.signature) | {name: "constexpr" for name, _ in launch.constants}
    # torch's allocator aligns every tensor, and Triton asks for no less before it vectorises
    aligned = {(i,): [["tt.divisibility", 16]] for i, (_, kind) in enumerate(launch.signature) if kind[0] == "*"}
    source = ASTSource(kernels.tile_weights, signature, dict(launch.constants), aligned)
    code = triton.compile(source, target=GPUTarget("cuda", architecture, 32))
    return _needs(code)


def _needs(code: Any) -> Needs:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code.asm["cubin"])
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}
    return Needs(
        found["REG"],
        found["STACK"] + found["LOCAL"],
        code.metadata.shared,
        32 * code.metadata.num_warps,
        len(code.asm["cubin"]),
    )


def table() -> Iterator[str]:
    """Lines of a Markdown table: one row per launch, registers / spilled bytes / shared bytes per architecture."""
    heads = " | ".join(f"sm_{a}: registers, spilled, shared" for a in ARCHITECTURES)
    yield f"| kernel | threads | {heads} |"
    yield "|---" * (2 + len(ARCHITECTURES)) + "|"
    for launch in launches():
        needs = [compiled(launch, a) for a in ARCHITECTURES]
        cells = " | ".join(f"{n.registers}, {n.spilled} B, {n.shared} B" for n in needs)
        yield f"| {launch.name} | {needs[0].threads} | {cells} |"


if __name__ == "__main__":
    print("\n".join(table()))
