"""Kernels compile for GPUs that are not here, and need no more than they may."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.gpu.aot import ARCHITECTURES, Launch, compiled, launches

ROOT = Path(__file__).parents[2]
#: Four warps of 128 registers: four blocks of 128 threads share a multiprocessor's 65,536 and still leave half of them.
REGISTERS, SHARED = 128, 4096


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("launch", launches(), ids=lambda launch: launch.name)
def test_a_kernel_compiles_without_spilling(launch: Launch, architecture: int) -> None:
    needs = compiled(launch, architecture)
    assert needs.spilled == 0
    assert 0 < needs.registers <= REGISTERS
    assert needs.shared <= SHARED


def test_the_page_lists_every_launch() -> None:
    page = (ROOT / "docs" / "experiments" / "gpu.md").read_text()
    listed = set(re.findall(r"^\| (tile_weights, [^|]*) \|", page, re.MULTILINE))
    assert listed == {launch.name for launch in launches()}


def test_every_kernel_of_the_product_is_compiled_here() -> None:
    """A new kernel needs a place in aot.py."""
    files = [
        f
        for p in ("chorus_common", "stage1_render_teachers", "stage2_distill", "evaluation")
        for f in (ROOT / p).rglob("*.py")
    ]
    kernels = {f.name for f in files if "@triton.jit" in f.read_text()}
    assert kernels == {"tile_weights.py"}
