"""Settings that every test shares."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

settings.register_profile("chorus", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("chorus")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped with a reason where no CUDA device is at hand."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
