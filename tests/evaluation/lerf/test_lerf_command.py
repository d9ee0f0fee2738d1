"""chorus-eval lerf on a tiny field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from chorus_common.cache import SceneCache
from chorus_common.runtime.errors import ChorusError, ConfigError
from chorus_common.text import load_text_encoder
from evaluation.commands.lerf import lerf_command
from evaluation.results import read_result
from stage2_distill.fields import FieldConfig, FieldRun, load_field, train_field
from tests.evaluation.lerf.test_lerf_annotations import SQUARE, write_frame
from tests.stage2.fields.field_scene import write_cache

PHRASES = ("chair", "table", "object", "things", "stuff", "texture")
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


def test_text_embeddings_in_place_of_the_text_encoder(tmp_path: Path) -> None:
    scene = write_cache(tmp_path / "store")
    train_field(CONFIG, FieldRun(SceneCache.open(scene), "masks", ("v2",)), tmp_path / "field")
    write_frame(tmp_path / "labels" / "v2.json", [{"category": "chair", "segmentation": SQUARE}], name="v2.jpg")
    field = load_field(tmp_path / "field", "cpu").card
    own = load_text_encoder(field.source.spec).encode(list(PHRASES))
    np.savez(tmp_path / "own.npz", **dict(zip(PHRASES, own)))  # type: ignore[arg-type]
    np.savez(tmp_path / "narrow.npz", **dict(zip(PHRASES, own[:, :5])))  # type: ignore[arg-type]
    np.savez(tmp_path / "lost.npz", chair=own[0])
    arguments = ["--field", tmp_path / "field", "--scene", scene, "--labels", tmp_path / "labels", "--device", "cpu"]

    def score(out: str, *more: object) -> dict[str, Any]:
        path = tmp_path / out
        CliRunner().invoke(lerf_command, [*map(str, (*arguments, *more, "--out", path))], catch_exceptions=False)
        return read_result(path)

    plain, file = score("a.json"), score("b.json", "--text-embeddings", tmp_path / "own.npz")
    assert plain["macro"] == pytest.approx(file["macro"], abs=1e-3)  # the file's vectors are normalised once more
    assert plain["inputs"]["text_encoder"] == field.source.spec
    assert file["inputs"]["text_encoder"] == f"file:{tmp_path / 'own.npz'}"
    for name, message in (
        ("narrow.npz", f"gives {field.width} channels, text side file:.*narrow.npz 5"),
        ("lost.npz", "lost.npz: lacks the phrases object, things, stuff, texture"),
        ("nowhere.npz", "no such file of text embeddings"),
    ):
        with pytest.raises(ChorusError, match=message):
            score("c.json", "--text-embeddings", tmp_path / name)
