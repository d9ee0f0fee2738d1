from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.labels import SCANNET20
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import GaussianScene
from evaluation.features import StudentFeatures
from evaluation.report.colours import class_palette, heat
from evaluation.results import result_document, write_result
from evaluation.scenes import EvalScene, LoadedScene
from evaluation.viewer.scene_model import COLOUR, FEATURES, LABELS, PREDICTION, TRUTH, SceneModel, pca_colours
from tests.evaluation.rooms import TEACHER, WordVectors, make_scene
from tests.evaluation.student import make_student
from tests.evaluation.viewer.models import GivenFeatures, room_model, toy_model


def test_modes_follow_what_there_is() -> None:
    assert toy_model(50).modes == (COLOUR, FEATURES, PREDICTION, TRUTH)
    assert toy_model(50, labels=False, features=False).modes == (COLOUR,)
    assert toy_model(50, features=False).modes == (COLOUR, TRUTH)
    with pytest.raises(ConfigError, match="unknown mode 'prediction'; known: colour, ground truth"):
        toy_model(50, features=False).layer(PREDICTION)
    with pytest.raises(ConfigError, match="give --encoder"):
        toy_model(50, features=False).answer("chair")


def test_colours_mean_what_the_legend_says() -> None:
    model = toy_model(300)
    scene = model.scene.gaussians
    labels = scene.labels
    assert labels is not None
    truth, prediction = (model.layer(mode).colors(scene.colors) for mode in (TRUTH, PREDICTION))
    known = labels >= 0
    np.testing.assert_array_equal(truth, class_palette(SCANNET20)[labels])
    np.testing.assert_array_equal(truth[known], prediction[known])
    entries = {name: share for _, name, share in model.layer(TRUTH).entries}
    assert entries["chair"] == pytest.approx((labels == SCANNET20.index("chair")).mean())
    assert "bathtub" not in entries
    layer = model.answer("chair")
    answer = layer.colors(scene.colors)
    chair = labels == SCANNET20.index("chair")
    blue, red = heat(np.array([0.0, 1.0], np.float32), 0, 1)
    np.testing.assert_allclose(answer[chair], np.tile(red, (chair.sum(), 1)), atol=1e-6)
    for name in ("floor", "wall", "table"):
        assert np.abs(answer[labels == SCANNET20.index(name)] - red).sum(axis=1).min() > 0.5
    np.testing.assert_allclose(answer[~known], np.tile(blue, ((~known).sum(), 1)), atol=1e-6)
    assert layer.ends is not None
    assert layer.ends[1] == pytest.approx(1.0, abs=0.05)
    np.testing.assert_array_equal(model.layer(COLOUR).colors(scene.colors), scene.colors)


def test_what_is_like_a_row_is_its_own_class() -> None:
    model = toy_model(300)
    labels = model.scene.gaussians.labels
    assert labels is not None
    chair = labels == SCANNET20.index("chair")
    layer = model.like(int(np.flatnonzero(chair)[0]))
    assert layer.values is not None
    assert layer.values[chair].min() == layer.values.max()
    assert layer.values[~chair].max() < layer.values.max()
    with pytest.raises(ConfigError, match="no Gaussian 300"):
        model.like(300)


def test_objects_of_predictions_and_of_the_truth() -> None:
    for model in (room_model(), room_model(features=False)):
        instances, found = model.scene.gaussians.instances, model.objects
        assert instances is not None
        for name in ("chair", "table", "bed"):
            described = [o for o in found.described if o["class"] == name]
            assert len(described) == 1
            mine = found.ids == described[0]["id"]
            assert described[0]["count"] == mine.sum()
            truth = instances == np.bincount(instances[mine]).argmax()
            assert (mine & truth).sum() / (mine | truth).sum() > 0.9
            low, high = model.scene.gaussians.means[mine].min(axis=0), model.scene.gaussians.means[mine].max(axis=0)
            np.testing.assert_allclose(described[0]["box"]["centre"][2], (low[2] + high[2]) / 2, atol=1e-3)
    assert all(o["confidence"] is None for o in room_model(features=False).objects.described)
    bare = toy_model(50, features=False, labels=False)
    assert not bare.has_objects
    with pytest.raises(ConfigError, match="no objects"):
        _ = bare.objects


def test_labels_of_a_folder_are_those_of_the_file_s_rows(tmp_path: Path) -> None:
    scene = make_scene(0, 40, labels=False)
    order = np.random.default_rng(0).permutation(40)
    loaded = LoadedScene(EvalScene("toy", "room"), scene.select(order), None)
    classes = (np.arange(40) % 3 - 1).astype(np.int32)
    for name, values in (("class", classes), ("instance", classes), ("confidence", np.ones(40, np.float32))):
        np.save(tmp_path / f"predicted_{name}.npy", values)
    with pytest.raises(ConfigError, match="no such result"):
        SceneModel(loaded, labels=tmp_path)
    table = [{"id": i, "name": name} for i, name in enumerate(("lamp", "sofa"))]
    write_result(tmp_path / "labels.json", result_document("label", "", {}, {"classes": table}))
    model = SceneModel(loaded, labels=tmp_path)
    assert model.modes == (COLOUR, LABELS)
    names = {i: name for i, name, _ in model.layer(LABELS).entries}
    values = model.layer(LABELS).values
    assert values is not None
    assert [names[int(v)] for v in values] == [("lamp", "sofa", "none")[classes[row]] for row in order]
    np.testing.assert_array_equal(model.objects.ids, classes[order])
    short = LoadedScene(EvalScene("toy", "other"), make_scene(0, 39, labels=False), None)
    with pytest.raises(ConfigError, match="labels of another file"):
        SceneModel(short, labels=tmp_path)


def test_every_head_of_a_student_has_colours() -> None:
    n = WordVectors.channels
    student = make_student(PhiSStandardiser(np.zeros(n), np.eye(n), 1.0, np.ones(n)))
    scene = LoadedScene(EvalScene("toy", "room"), make_scene(0, 80), None)
    model = SceneModel(scene, StudentFeatures(student, TEACHER))
    assert model.modes == (COLOUR, FEATURES, f"{FEATURES}: encoder")
    assert not model.answers_text
    values = [model.layer(mode).values for mode in model.modes[1:]]
    assert all(v is not None and v.shape == (80, 3) for v in values)
    assert (values[0] != values[1]).any()  # type: ignore[operator]


def test_colours_of_features_need_no_copy_of_all() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=(30, 8)), np.zeros((5, 8))]).astype(np.float32)
    colours = pca_colours(GivenFeatures(values).open(scene_of(35)), 35)
    assert colours.shape == (35, 3)
    np.testing.assert_array_equal(colours[30:], np.float32(0.85))
    assert np.ptp(colours[:30], axis=0).min() > 0.5


def scene_of(n: int) -> LoadedScene:
    scene: GaussianScene = make_scene(0, n)
    return LoadedScene(EvalScene("toy", "room"), scene, None)
