"""LERF at the released Chorus's fixed thresholds, of fields and of encoders, against a slow twin."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from chorus_common.runtime.errors import ConfigError
from chorus_common.text.relevancy import CANONICAL_PHRASES
from evaluation.commands.lerf import lerf_command
from evaluation.features import ArrayFeatures
from evaluation.lerf.annotations import read_annotations
from evaluation.lerf.encoder_answers import EncoderAnswers
from evaluation.lerf.fixed_thresholds import RELEASE_THRESHOLDS, score_thresholds, summarise_thresholds
from evaluation.lerf.protocol import AskedScene
from evaluation.results import read_result
from tests.chorus_common.rasterize.reference_rasterizer import render
from tests.evaluation.lerf.test_lerf_annotations import write_frame
from tests.evaluation.rooms import WordVectors, make_cameras, make_scene
from tests.stage2.fields.field_scene import write_cache

GOLDEN = Path(__file__).parents[2] / "data" / "chorus_3dgs_small.pth"
BOX = [[8, 8], [30, 8], [30, 24], [8, 24]]
WORDS = ("chair", "table")


@dataclass(frozen=True)
class Told:
    """Random relevancies."""

    values: dict[str, np.ndarray]

    def of_gaussians(self, text: str) -> np.ndarray:
        return self.values[text]

    def __call__(self, name: str, width: int, height: int, texts: list[str]) -> np.ndarray:
        raise AssertionError("not asked")


def test_masks_of_selected_gaussians_against_a_slow_twin(tmp_path: Path) -> None:
    """By the reference rasteriser: the selected Gaussians alone, half a pixel covered; frames, then queries."""
    scene = make_scene(0, 120)
    scene = replace(scene, scales=scene.scales * 4)
    cameras = make_cameras()
    rng = np.random.default_rng(0)
    values = {text: rng.random(len(scene)).astype(np.float32) for text in WORDS}
    values["table"] *= 0.5  # nothing above 0.5
    write_frame(tmp_path / "v0.json", [{"category": w, "segmentation": BOX} for w in WORDS])
    write_frame(tmp_path / "v2.json", [{"category": "chair", "segmentation": BOX}], width=60, height=44)
    frames = read_annotations(tmp_path)
    views = {"v0": 0, "v2": 2}
    found = score_thresholds(AskedScene("s", frames, scene, cameras, views, Told(values), "told"))
    for text, per_threshold in found.items():
        for threshold, mean in zip(RELEASE_THRESHOLDS, per_threshold):
            ious = []
            for frame in frames:
                truth = next((q.mask for q in frame.queries if q.text == text), None)
                if truth is None:
                    continue
                own = cameras.resized(frame.width, frame.height)
                part = scene.select(np.flatnonzero(values[text] > threshold))
                row = views[frame.name]
                alpha = (
                    render(part, own.viewmats[row], own.intrinsics[row], frame.width, frame.height).alpha
                    if len(part) else np.zeros(truth.shape)
                )  # fmt: skip
                mask = alpha >= 0.5
                both, either = (mask & truth).sum(), (mask | truth).sum()
                ious.append(both / either)
            assert mean == pytest.approx(np.mean(ious), abs=5e-3), (text, threshold)  # a pixel at the edge of one half
    assert found["table"][3:].tolist() == [0, 0, 0]
    assert found["chair"][:3].min() > 0
    body = summarise_thresholds({"a": found, "b": {"chair": np.ones(6)}})
    assert list(body) == ["0.20", "0.30", "0.40", "0.50", "0.60", "0.80"]
    expected = (np.mean([v[0] for v in found.values()]) + 1) / 2
    assert body["0.20"]["miou"] == pytest.approx(expected)


def test_pixels_are_the_mean_relevancy_along_their_rays() -> None:
    scene, cameras = make_scene(0, 80), make_cameras()
    encoder = WordVectors()
    rng = np.random.default_rng(1)
    features = rng.normal(size=(80, encoder.channels)).astype(np.float32)
    answers = EncoderAnswers(scene, cameras, {"v1": 1}, ArrayFeatures(features), encoder)
    maps = answers("v1", 48, 36, list(WORDS))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    own = cameras.resized(48, 36)
    reference = render(scene, own.viewmats[1], own.intrinsics[1], 48, 36)
    weights = reference.weights.reshape(36, 48, -1)
    sure = ~reference.doubtful & (np.abs(reference.alpha - 0.5) > 1e-3)
    for i, word in enumerate(WORDS):
        query, rivals = encoder.encode([word])[0], encoder.encode(list(CANONICAL_PHRASES))
        heat = np.min([1 / (1 + np.exp(-10 * (unit @ query - unit @ rival))) for rival in rivals], axis=0)
        np.testing.assert_allclose(answers.of_gaussians(word), heat, atol=1e-5)
        mean = weights @ heat / np.maximum(reference.alpha, 1e-9)
        expected = np.where(reference.alpha >= 0.5, mean, np.nan)
        np.testing.assert_allclose(maps[..., i][sure], expected[sure], atol=1e-4)


def test_a_released_chorus_at_the_command_line(tmp_path: Path) -> None:
    scene = write_cache(tmp_path / "store")
    rng = np.random.default_rng(3)
    np.savez(tmp_path / "p.npz", **{w: rng.normal(size=48) for w in (*WORDS, *CANONICAL_PHRASES)})  # type: ignore[arg-type]
    write_frame(tmp_path / "labels" / "v2.json", [{"category": w, "segmentation": BOX} for w in WORDS], name="v2.jpg")
    asked = ["--encoder", GOLDEN, "--scene", scene, "--labels", tmp_path / "labels", "--device", "cpu"]
    out = tmp_path / "lerf.json"

    def score(*arguments: object) -> str:
        return CliRunner().invoke(lerf_command, [*map(str, (*arguments, "--out", out))], catch_exceptions=False).output

    said = score(*asked, "--text-embeddings", tmp_path / "p.npz")
    body = read_result(out)
    assert "mIoU (chorus_release)" in said
    assert list(body["chorus_release"]) == [f"{t:.2f}" for t in RELEASE_THRESHOLDS]
    row = body["chorus_release"]["0.50"]
    assert set(row["queries"]["toy/room"]) == set(WORDS)
    assert row["miou"] == row["scenes"]["toy/room"] == pytest.approx(np.mean(list(row["queries"]["toy/room"].values())))
    assert body["inputs"]["text_encoder"] == f"file:{tmp_path / 'p.npz'}"
    assert body["inputs"]["encoder_weights"]["licence"] == ""
    json.dumps(body, allow_nan=False)
    for arguments, message in (
        ([*asked, "--field", "x"], "give --field for each scene, or one --encoder"),
        (["--scene", scene, "--labels", tmp_path / "labels"], "give --field for each scene, or one --encoder"),
        ([*asked, "--scene", scene], "2 --scene, 1 --labels: give one of each"),
    ):
        with pytest.raises(ConfigError, match=message):
            score(*arguments)
