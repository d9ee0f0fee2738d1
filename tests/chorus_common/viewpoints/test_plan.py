"""The plan: in letters and as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from chorus_common.viewpoints import survey_scene
from chorus_common.viewpoints.plan import COLOURS, text_plan, write_plan
from tests.chorus_common.viewpoints.buildings import box_faces, gaussians_on, make_building


def test_a_building_in_letters_and_as_a_picture(tmp_path: Path) -> None:
    survey = survey_scene(make_building(5, 2, 2, 2, spacing=0.09).scene)
    text = text_plan(survey, 32)
    storeys = text.split("\n\n")
    assert len(storeys) == 2
    assert all(len(line) <= 76 for line in text.splitlines())
    assert set("abcdefgh") < set(text)
    assert 8 <= text.count("*") <= 16
    write_plan(tmp_path / "plan.png", survey, 32)
    pixels = np.asarray(Image.open(tmp_path / "plan.png"))
    assert (pixels == COLOURS[2]).all(axis=-1).any()
    assert (pixels == COLOURS[1]).all(axis=-1).any()


def test_an_object_has_a_plan_of_rings(tmp_path: Path) -> None:
    scene = gaussians_on(box_faces(np.zeros(3), np.array([0.4, 0.3, 1.0])), 0.03, np.random.default_rng(0))
    write_plan(tmp_path / "plan.png", survey_scene(scene), 24)
    pixels = np.asarray(Image.open(tmp_path / "plan.png"))
    assert (pixels == COLOURS[2]).all(axis=-1).any()
