from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.report.charts import class_bars, confusion_picture, picture_png, read_log, training_curves


def size(png: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(png)).size


def test_log_survives_a_torn_line(tmp_path: Path) -> None:
    lines = [
        {"kind": "step", "step": i, "loss": 2.0 - i / 50, "teachers": {"text": {"cosine": i / 50}}} for i in range(50)
    ]
    lines.append({"kind": "validation", "step": 49, "distillation": 0.5, "teachers": {"text": {"cosine": 0.9}}})
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "st')
    records = read_log(path)
    assert len(records) == 51
    png = training_curves(records)
    assert png is not None
    assert size(png)[0] > 1000
    assert training_curves(records) == png, "same data, same bytes"
    assert training_curves([]) is None


def test_bars_and_confusion_cope_with_missing_classes() -> None:
    rows = {"student": {"wall": 0.5, "chair": None, "lamp": 0.0}, "teacher": {"wall": 0.7, "chair": None, "lamp": None}}
    assert size(class_bars(rows))[0] > 1000
    counts = np.array([[5, 0, 0, 2], [0, 0, 0, 0], [1, 0, 9, 0]])
    assert size(confusion_picture("t", ["wall", "chair", "lamp"], counts))[0] > 200


def test_picture_is_exact() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 5, 3)) / 255
    read = np.asarray(Image.open(io.BytesIO(picture_png(picture))))
    np.testing.assert_array_equal(read, np.round(picture * 255).astype(np.uint8))
