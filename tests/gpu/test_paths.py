"""Every way through the product on a CUDA device, without one; and the list of what makes the host wait there."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from stage2_distill.encoder import sparse_conv
from tests.gpu.paths import PATHS, Waits

PAGE = Path(__file__).parents[2] / "docs" / "experiments" / "gpu.md"
_ROW = re.compile(r"^\| `([^`]+):([^`:]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def measured() -> dict[str, Waits]:
    return {name: path() for name, path in PATHS.items()}


def test_the_page_lists_what_the_host_waits_for(measured: dict[str, Waits]) -> None:
    """Where, what for, how often on which way; and a reason."""
    found: dict[tuple[str, str, str], dict[str, int]] = defaultdict(dict)
    for name, waits in measured.items():
        for wait, count in waits.items():
            found[wait.file, wait.function, wait.what][name] = count
    expected = {key: "; ".join(f"{name}: {n}" for name, n in counts.items()) for key, counts in found.items()}
    listed = {(file, function, what): where for file, function, what, where, _ in _ROW.findall(PAGE.read_text())}
    assert listed == expected
    assert all(reason.strip() for *_, reason in _ROW.findall(PAGE.read_text()))


@pytest.mark.parametrize("preset", ["chorus-lite", "sonata", "ptv3", "utonia"])
def test_an_encoder_waits_once_whatever_its_depth(measured: dict[str, Waits], preset: str) -> None:
    assert sum(measured[f"forward, {preset}"].values()) == 1


def test_an_encoder_waits_once_where_its_convolutions_go_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_conv, "DEVICE_TILE", 32)
    assert sum(PATHS["forward, chorus-lite"]().values()) == 1


@pytest.mark.parametrize("path", ["train", "adapt"])
def test_a_step_waits_for_sizes_and_its_result(measured: dict[str, Waits], path: str) -> None:
    assert sum(measured[path].values()) == 2


def test_a_step_of_gaussiancross_waits_four_times(measured: dict[str, Waits]) -> None:
    """However many views it draws: sizes of levels, opaque Gaussians, cells that are seen, and its result."""
    assert sum(measured["pretrain"].values()) == 4
