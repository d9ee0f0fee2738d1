"""gsplat's CUDA extension compiles with the toolkit at hand and the installed PyTorch, without a card."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

#: what the product calls, under the names that gsplat's Python side looks up
WANTED = (
    "projection_ewa_3dgs_fused_fwd", "intersect_tile", "intersect_offset", "rasterize_to_pixels_3dgs_fwd",
    "rasterize_to_pixels_3dgs_bwd", "rasterize_to_indices_3dgs",
)  # fmt: skip


def toolkit() -> Path:
    """Folder of a CUDA toolkit that fits PyTorch; skips the test with the reason where there is none."""
    if torch.version.cuda is None:
        pytest.skip("this PyTorch has no CUDA")
    named = os.environ.get("CUDA_HOME")
    compiler = shutil.which("nvcc", path=f"{named}/bin" if named else None)
    if compiler is None:
        pytest.skip("no nvcc: set CUDA_HOME to a toolkit, or to the wheels that docs/experiments/gpu.md names")
    if shutil.which("ninja") is None:
        pytest.skip("no ninja: pip install ninja")
    version = re.search(r"release (\d+)\.(\d+)", _said(compiler, "--version"))
    assert version is not None
    if version[1] != torch.version.cuda.split(".")[0]:
        pytest.skip(f"nvcc is of CUDA {version[1]}, PyTorch of {torch.version.cuda}: the major versions must agree")
    if named:
        return Path(named)
    top = re.search(r"^#\$ TOP=(.+)$", _said(compiler, "-v", "--dryrun", "-x", "cu", "/dev/null"), re.MULTILINE)
    assert top is not None
    return Path(top[1]).resolve()


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_extension_compiles_and_loads(tmp_path: Path) -> None:
    pytest.importorskip("gsplat")
    environment = os.environ | {
        "CUDA_HOME": str(toolkit()), "TORCH_CUDA_ARCH_LIST": "9.0", "TORCH_EXTENSIONS_DIR": str(tmp_path),
        "FAST_COMPILE": "1", "MAX_JOBS": str(os.cpu_count()),
    }  # fmt: skip
    code = "from gsplat.cuda import _backend as b; print('has', *dir(b._C))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    names = set(done.stdout.partition("has ")[2].split())
    assert names >= set(WANTED), sorted(names)
