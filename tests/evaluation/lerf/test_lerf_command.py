"""chorus-eval lerf on a tiny field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from chorus_common.cache import SceneCache
from chorus_common.runtime.errors import ConfigError
from evaluation.commands.lerf import lerf_command
from evaluation.results import read_result
from stage2_distill.fields import FieldConfig, FieldRun, train_field
from tests.evaluation.lerf.test_lerf_annotations import SQUARE, write_frame
from tests.stage2.fields.field_scene import write_cache

CONFIG = FieldConfig(decoder_width=32, decoder_layers=3, iterations=20, min_alpha=0.01)


def test_held_out_frames_are_scored_and_training_frames_refused(tmp_path: Path) -> None:
    scene = write_cache(tmp_path / "store")
    train_field(CONFIG, FieldRun(SceneCache.open(scene), "masks", ("v2",)), tmp_path / "field")
    objects = [{"category": name, "segmentation": SQUARE} for name in ("chair", "table")]
    write_frame(tmp_path / "labels" / "v2.json", objects, name="v2.jpg")
    arguments = ["--field", str(tmp_path / "field"), "--scene", str(scene), "--labels", str(tmp_path / "labels")]
    out = tmp_path / "lerf.json"
    result = CliRunner().invoke(lerf_command, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    body = read_result(out)
    assert body["inputs"]["held_out"] is True
    assert body["query_weighted"]["queries"] == 2
    assert body["macro"]["miou"] == body["scenes"]["toy/room"]["miou"]
    assert 0 <= body["macro"]["average_precision"] <= 1
    json.dumps(body, allow_nan=False)
    write_frame(tmp_path / "labels" / "v0.json", objects, name="v0.jpg")
    with pytest.raises(ConfigError, match="trained on annotated frame v0"):
        CliRunner().invoke(lerf_command, [*arguments, "--out", str(out)], catch_exceptions=False)
    allowed = [*arguments, "--allow-training-views", "--out", str(out)]
    assert CliRunner().invoke(lerf_command, allowed, catch_exceptions=False).exit_code == 0
    assert read_result(out)["inputs"]["held_out"] is False
    with pytest.raises(ConfigError, match="give one of each"):
        CliRunner().invoke(lerf_command, [*arguments, "--field", "x", "--out", str(out)], catch_exceptions=False)
