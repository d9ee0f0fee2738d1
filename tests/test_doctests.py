"""The examples in the docstrings of the public API run as they stand."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "chorus_common.cameras",
    "chorus_common.lifting.cells",
    "chorus_common.lifting.index",
    "chorus_common.manifest",
    "chorus_common.rasterize.backends",
    "chorus_common.runtime.lazy",
    "chorus_common.scene",
    "chorus_common.scene_io.read",
    "chorus_common.text.encoders",
    "data_manifests.synthetic.room",
    "evaluation.metrics.instance",
    "evaluation.metrics.semantic",
    "stage1_render_teachers.teachers",
    "stage2_distill.encoder.presets",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    options = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    found = doctest.testmod(importlib.import_module(name), optionflags=options)
    assert found.attempted > 0, "no example"
    assert found.failed == 0
