from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from chorus_common.cache import SceneCache
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.labels import SCANNET20
from chorus_common.runtime.errors import CacheError, ConfigError
from evaluation import features as features_module
from evaluation.features import FeatureFiles, LiftedTeacher, StudentFeatures, text_aligned_teacher
from evaluation.prompts import class_embeddings
from evaluation.scenes import EvalScene, LoadedScene, labelled_scenes, select_scenes
from evaluation.tasks.zero_shot import Method, ZeroShotConfig, classify, zero_shot
from tests.evaluation.rooms import GRID, TEACHER, Rooms, WordVectors, make_rooms
from tests.evaluation.student import fake_latent, fake_tta, make_student

TEXT = class_embeddings(WordVectors(), SCANNET20)


def loaded(rooms: Rooms, scene_id: str) -> LoadedScene:
    return EvalScene("toy", scene_id, rooms.store).load()


def standardiser_of(rooms: Rooms) -> PhiSStandardiser:
    return PhiSStandardiser.load(rooms.store / "standardisers" / f"{TEACHER}.safetensors")


def cosine_argmax(feature: np.ndarray, text: np.ndarray) -> int:
    cosines = [float(feature @ t) / np.linalg.norm(feature) / np.linalg.norm(t) for t in text.astype(np.float64)]
    return cosines.index(max(cosines))


def plain_lifted(rooms: Rooms, scene_id: str) -> list[int]:
    """Prediction per Gaussian of the cache by the plain formula: mean over all cells of all views, inverse
    standardiser, nearest text.
    """
    cache = SceneCache.open(rooms.store / "toy" / f"{scene_id}.zarr")
    index, standardiser = cache.lifting(), standardiser_of(rooms)
    cells = cache.features(TEACHER).astype(np.float64).reshape(index.n_views * GRID.cells, -1)
    predictions = []
    for row in range(len(index)):
        entries = slice(index.indptr[row], index.indptr[row + 1])
        weights = index.weights[entries].astype(np.float64)
        if weights.sum() == 0:
            predictions.append(-1)
            continue
        mean = weights @ cells[index.columns[entries]] / weights.sum()
        predictions.append(cosine_argmax(standardiser.phi * standardiser.rotation.T @ mean + standardiser.mean, TEXT))
    return predictions


def test_lifted_teacher_equals_the_plain_formula(rooms: Rooms) -> None:
    scene = loaded(rooms, "val_0")
    opened = LiftedTeacher(TEACHER, standardiser_of(rooms)).open(scene)
    expected = np.array(plain_lifted(rooms, "val_0"))
    assert (classify(opened, len(scene.gaussians), TEXT) == expected).all()
    assert 0 < (expected == -1).mean() < 1, "the toy rooms must have unseen Gaussians"


def test_row_passes_do_not_change_the_result(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = LiftedTeacher(TEACHER, standardiser_of(rooms)).open(loaded(rooms, "val_0"))
    whole = classify(opened, 600, TEXT)
    monkeypatch.setattr("evaluation.tasks.zero_shot.PASS", 17)
    np.testing.assert_array_equal(whole, classify(opened, 600, TEXT))


def test_student_equals_the_direction_of_its_projector_then_inverse_standardiser(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "encode_tta", fake_tta)
    standardiser = standardiser_of(rooms)
    student = make_student(standardiser)
    scene = loaded(rooms, "val_0").gaussians
    opened = StudentFeatures(student, TEACHER).open(loaded(rooms, "val_0"))
    with torch.inference_mode():
        standardised = student.project(TEACHER, torch.from_numpy(fake_latent(student.encoder, scene))).numpy()
    rows = standardised.astype(np.float64)
    rows *= np.sqrt(rows.shape[1]) / np.linalg.norm(rows, axis=1, keepdims=True)  # as long as a teacher's typically are
    expected = [
        cosine_argmax(standardiser.phi * standardiser.rotation.T @ row + standardiser.mean, TEXT) for row in rows
    ]
    assert len(set(expected)) > 1
    assert (classify(opened, len(scene), TEXT) == np.array(expected)).mean() > 0.995  # single against double precision


def run(rooms: Rooms, methods: dict[str, Method], **config: object) -> dict[str, object]:
    selection = select_scenes([rooms.store], rooms.manifest, "val")
    labelled_scenes(selection)
    return zero_shot(selection, SCANNET20, TEXT, methods, ZeroShotConfig(**config))[0]  # type: ignore[arg-type]


def test_rows_share_their_gaussians_and_fill_only_helps_the_unseen(rooms: Rooms) -> None:
    source = LiftedTeacher(TEACHER, standardiser_of(rooms))
    result = run(rooms, {"filled": Method(source, fill=True), "seen": Method(source)})
    rows = result["rows"]
    counts = {name: np.array(row["confusion"]["counts"]) for name, row in rows.items()}  # type: ignore[attr-defined]
    np.testing.assert_array_equal(counts["filled"].sum(axis=1), counts["seen"].sum(axis=1))
    truth = [s.labels for name, s in rooms.scenes.items() if name.startswith("val")]
    assert counts["seen"].sum() == sum(int((t >= 0).sum()) for t in truth)  # type: ignore[operator]
    assert counts["filled"][:, -1].sum() == 0 < counts["seen"][:, -1].sum()
    assert (counts["filled"][:, :-1] >= counts["seen"][:, :-1]).all(), "what was predicted stays as it was"
    assert rows["filled"]["miou"] > rows["seen"]["miou"] > 0.5  # type: ignore[index]
    assert list(result["excluded"]) == ["toy/missing_0", "toy/zz_0"]  # type: ignore[call-overload]


def test_ground_truth_does_not_leak_into_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong labels in the store change the score and not one prediction."""
    predictions: list[np.ndarray] = []
    from evaluation.metrics.semantic import ConfusionMatrix

    add = ConfusionMatrix.add

    def spy(self: ConfusionMatrix, truth: np.ndarray, prediction: np.ndarray, **kw: object) -> ConfusionMatrix:
        predictions.append(prediction.copy())
        return add(self, truth, prediction, **kw)  # type: ignore[arg-type]

    rooms = make_rooms(tmp_path, train=0, val=1, n=200)
    source = {"filled": Method(LiftedTeacher(TEACHER, standardiser_of(rooms)), fill=True)}
    monkeypatch.setattr(ConfusionMatrix, "add", spy)
    first = run(rooms, source)
    read = SceneCache.scene

    def relabelled(self: SceneCache) -> object:
        scene = read(self)
        assert scene.labels is not None
        object.__setattr__(scene, "labels", np.where(scene.labels >= 0, (scene.labels + 7) % 20, -1).astype(np.int32))
        return scene

    monkeypatch.setattr(SceneCache, "scene", relabelled)
    second = run(rooms, source)
    np.testing.assert_array_equal(predictions[0], predictions[1])
    assert second["rows"]["filled"]["miou"] < first["rows"]["filled"]["miou"]  # type: ignore[index]


def test_feature_files_follow_the_source_order(rooms: Rooms, tmp_path: Path) -> None:
    for name, scene in rooms.scenes.items():
        if name.startswith("val"):
            np.save(tmp_path / f"{name}.npy", TEXT[np.maximum(scene.labels, 0)])  # type: ignore[arg-type]
    result = run(rooms, {"features": Method(FeatureFiles(tmp_path, TEXT.shape[1]))})
    assert result["rows"]["features"]["miou"] == 1.0  # type: ignore[index]


def test_feature_files_that_do_not_fit_are_named(rooms: Rooms, tmp_path: Path) -> None:
    files = {"features": Method(FeatureFiles(tmp_path, TEXT.shape[1]))}
    with pytest.raises(CacheError, match=r"toy/val_0: neither .*val_0.npy"):
        run(rooms, files)
    for bad, message in (
        (np.zeros((599, 32), np.float32), "has 599 rows, the scene toy/val_0 has 600 Gaussians"),
        (np.zeros((601, 32), np.float32), "has 601 rows"),
        (np.zeros((600, 31), np.float32), r"expected floats \[N, 32\]"),
        (np.zeros((600, 32), np.int64), "expected floats"),
        (np.full((600, 32), np.nan, np.float32), "not finite"),
    ):
        np.save(tmp_path / "val_0.npy", bad)
        with pytest.raises(CacheError, match=message):
            run(rooms, files)
    (tmp_path / "val_0.npy").write_bytes(b"nonsense")
    with pytest.raises(CacheError, match=r"val_0.npy: not a .npy array"):
        run(rooms, files)


def test_points_take_the_vote_of_their_neighbours(tmp_path: Path) -> None:
    rooms = make_rooms(tmp_path, train=0, val=2, n=300)
    scene = rooms.scenes["val_0"]
    folder = tmp_path / "val_0"
    folder.mkdir()
    np.save(folder / "pc_coord.npy", scene.means + np.float32(0.001))
    np.save(folder / "pc_segment20.npy", scene.labels)  # type: ignore[arg-type]
    features = tmp_path / "features"
    features.mkdir()
    np.save(features / "val_0.npy", TEXT[np.maximum(scene.labels, 0)])  # type: ignore[arg-type]
    methods = {"features": Method(FeatureFiles(features, TEXT.shape[1]))}
    result = run(rooms, methods, target="points", k=1)
    assert result["rows"]["features"]["miou"] == 1.0  # type: ignore[index]
    assert result["excluded"] == {
        "toy/val_1": "no ground truth: no pc_coord.npy beside the source"
    }  # it has no labelled cloud beside it
    assert run(rooms, methods, target="points", k=25)["rows"]["features"]["miou"] < 1.0  # type: ignore[index]


def test_teacher_is_chosen_by_its_text_side(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(spec: str) -> WordVectors:
        if spec != "embedded:text":
            raise ConfigError(f"teacher '{spec}' has no text side")
        return WordVectors()

    monkeypatch.setattr(features_module, "load_text_encoder", load)
    specs = {"dense": "embedded:dense", "language": "embedded:text"}
    assert text_aligned_teacher(specs, None)[0] == "language"
    with pytest.raises(ConfigError, match="'embedded:dense' has no text side"):
        text_aligned_teacher(specs, "dense")
    with pytest.raises(ConfigError, match="no teacher 'clip'; known: dense, language"):
        text_aligned_teacher(specs, "clip")
    with pytest.raises(ConfigError, match="no text-aligned teacher among none"):
        text_aligned_teacher({}, None)


def test_nothing_to_evaluate_is_one_line(rooms: Rooms, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no such store"):
        select_scenes([tmp_path / "none"], None, "val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CacheError, match="holds no scenes"):
        select_scenes([tmp_path / "empty"], None, "val")
    with pytest.raises(CacheError, match="none of the 4 scenes of split 'val' is in the store"):
        select_scenes([tmp_path / "empty"], rooms.manifest, "val")


def test_damaged_scene_is_left_out_visibly(tmp_path: Path) -> None:
    rooms = make_rooms(tmp_path, train=0, val=2, n=100)
    victim = max(
        (rooms.store / "toy" / "val_1.zarr").rglob("c/0*"), key=lambda p: p.stat().st_size if p.is_file() else 0
    )
    victim.write_bytes(victim.read_bytes()[:-1])
    selection = select_scenes([rooms.store], rooms.manifest, "val")
    labelled_scenes(selection)
    result, _ = zero_shot(
        selection, SCANNET20, TEXT, {"a": Method(LiftedTeacher(TEACHER, standardiser_of(rooms)))}, ZeroShotConfig()
    )
    assert list(result["per_scene"]) == ["toy/val_0"]
    assert selection.failed
    assert "val_1" in selection.excluded["toy/val_1"]
