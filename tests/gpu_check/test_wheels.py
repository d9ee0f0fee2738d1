"""What comes along is all that is needed beside what a CUDA machine has."""

from __future__ import annotations

import importlib.metadata
import re

from packaging.requirements import Requirement

from tests.gpu_check.wheels import LIST

#: what the machine is said to have
MACHINE = (
    "torch", "triton", "torchvision", "timm", "numba", "scipy", "scikit-image", "pyarrow", "click", "rich", "psutil",
    "safetensors", "matplotlib", "tensorboard",
)  # fmt: skip
_ENVIRONMENT = {"python_version": "3.12", "python_full_version": "3.12.0", "extra": ""}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needs(name: str) -> set[str]:
    """Names of what an installed package needs on Python 3.12; nothing for one that is not installed here."""
    try:
        requirements = [Requirement(text) for text in importlib.metadata.requires(name) or ()]
    except importlib.metadata.PackageNotFoundError:
        return set()
    return {plain(r.name) for r in requirements if r.marker is None or r.marker.evaluate(_ENVIRONMENT)}


def test_every_package_that_comes_along_finds_what_it_needs() -> None:
    lines = [line for line in LIST.read_text().splitlines() if line and not line.startswith("#")]
    carried = {plain(Requirement(line).name) for line in lines}
    there, todo = set[str](), set(MACHINE)
    while todo:
        name = todo.pop()
        there.add(name)
        todo |= needs(name) - there
    missing = {name: needs(name) - carried - there for name in carried}
    assert {name: what for name, what in missing.items() if what} == {}
