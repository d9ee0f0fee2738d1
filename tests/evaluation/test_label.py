"""chorus-eval label: labels in the user's own file, opened again without our reader; objects and their boxes."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from chorus_common.labels import SCANNET20, SCANNET20_NYU40_IDS
from chorus_common.runtime.errors import ChorusError
from chorus_common.scene_check import Alignment
from chorus_common.scene_io import read_scene, write_ply
from chorus_common.scene_io.sog_write import write_sog
from chorus_common.scene_io.source_properties import read_properties
from evaluation.boxes import oriented_box
from evaluation.cli import cli
from evaluation.label import nearest_class, read_classes
from evaluation.predictions.folder import PredictionFolder
from evaluation.prompts import class_embeddings
from evaluation.scenes import scene_at
from evaluation.targets import open_target
from tests.chorus_common.test_scene_io_convert import plain_table
from tests.chorus_common.test_scene_io_foreign import FILES
from tests.evaluation.instance_rooms import BOXES, room_with_instances
from tests.evaluation.rooms import WordVectors

NAMES = ("chair", "table", "bed", "floor")
ASK = ("--classes", ",".join(NAMES), "--text", "embedded:text", "--prompts", "plain")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["label", *(str(a) for a in arguments)], standalone_mode=False)


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.sources.load_text_encoder", lambda spec: WordVectors())


def room() -> tuple[object, np.ndarray]:
    """A room with three degrees of harmonics and no truth, in an order of no meaning; the class of every row."""
    scene = room_with_instances(0)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(scene))
    truth = np.repeat([NAMES.index(box[0]) for box in BOXES], 150)[order]
    rest = rng.normal(size=(len(scene), 15, 3)).astype(np.float32)
    bare = replace(scene.select(order), labels=None, instances=None, label_space="", source_rows=0)
    return replace(bare, harmonics=rest, source_ids=np.arange(len(order))), truth


def perfect(folder: Path, stem: str, classes: np.ndarray) -> Path:
    """Features in which every row says its class."""
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{stem}.npy", class_embeddings(WordVectors(), NAMES, templates="plain")[classes])
    return folder


def test_labels_in_a_trained_ply(tmp_path: Path) -> None:
    scene, truth = room()
    source = write_ply(scene, tmp_path / "in" / "room.ply")  # type: ignore[arg-type]
    features = perfect(tmp_path / "features", "room", truth)
    out = tmp_path / "out"
    result = call(
        source,
        *ASK,
        "--features",
        features,
        "--out",
        out,
        "--objects",
        "--json",
        "--radius",
        0.9,
        "--up",
        "off",
        "--scale",
        "off",
    )
    assert result.exception is None, result.exception
    lines, old, tail = plain_table(source)
    new_lines, new, new_tail = plain_table(out / "room.ply")
    assert [line for line in new_lines if "predicted_" not in line] == lines
    assert new_tail == tail
    assert len(old) == 62
    for name, values in old.items():
        assert new[name] == values, name
    classes = np.frombuffer(b"".join(new["predicted_class"]), "<i4")
    np.testing.assert_array_equal(classes, truth)
    instances = np.frombuffer(b"".join(new["predicted_instance"]), "<i4")
    confidence = np.frombuffer(b"".join(new["predicted_confidence"]), "<f4")
    assert confidence.min() > 0.9
    for name, values in (("class", classes), ("instance", instances), ("confidence", confidence)):
        np.testing.assert_array_equal(np.load(out / f"predicted_{name}.npy"), values)
    assert read_scene(out / "room.ply").labels is None, "a prediction is no ground truth"
    document = json.loads((out / "labels.json").read_text())
    assert json.loads(result.stdout) == document
    assert (out / "labels.png").read_bytes().startswith(b"\x89PNG")
    assert [c["name"] for c in document["classes"]] == list(NAMES)
    assert sorted(o["class"] for o in document["objects"]) == sorted(NAMES)
    for entry in document["objects"]:
        rows = np.flatnonzero(instances == entry["id"])
        assert entry["count"] == len(rows) > 100
        assert len(np.unique(truth[rows])) == 1
        part = out / entry["file"]
        np.testing.assert_array_equal(read_properties(part)["source_row"], rows)
        _, table, _ = plain_table(part)
        for name, values in old.items():
            assert table[name] == [values[row] for row in rows], name
        low, size = next((np.array(b[1]), np.array(b[2])) for b in BOXES if b[0] == entry["class"])
        np.testing.assert_allclose(entry["box"]["centre"], low + size / 2, atol=0.06)
        np.testing.assert_allclose(sorted(entry["box"]["size"]), sorted(size), atol=0.12)


def test_labels_do_not_depend_on_the_order_of_the_rows(tmp_path: Path) -> None:
    scene, truth = room()
    order = np.random.default_rng(5).permutation(len(truth))
    found = []
    for name, rows in (("a", np.arange(len(truth))), ("b", order)):
        write_ply(scene.select(rows), tmp_path / name / "room.ply")  # type: ignore[attr-defined]
        features = perfect(tmp_path / f"features-{name}", "room", truth[rows])
        out = tmp_path / f"out-{name}"
        assert call(tmp_path / name / "room.ply", *ASK, "--features", features, "--out", out).exception is None
        found.append(np.load(out / "predicted_instance.npy"))
    np.testing.assert_array_equal(found[0][order], found[1])


def test_boxes_go_out_in_the_frame_of_the_file(tmp_path: Path) -> None:
    """A file with y down in centimetres: its boxes are the upright ones, turned back."""
    scene, truth = room()
    means = scene.means[:, [0, 2, 1]] * np.array([1, -1, 1]) * 100  # type: ignore[attr-defined]
    turned = replace(scene, means=means.astype(np.float32), scales=scene.scales * 100)  # type: ignore[attr-defined,type-var]
    source = write_ply(turned, tmp_path / "in" / "room.ply")  # type: ignore[arg-type]
    features = perfect(tmp_path / "features", "room", truth)
    given_frame = ("--up", "-y", "--scale", "0.01")
    result = call(source, *ASK, "--features", features, "--out", tmp_path / "out", *given_frame)
    assert result.exception is None, result.exception
    document = json.loads((tmp_path / "out" / "labels.json").read_text())
    bed = next(o for o in document["objects"] if o["class"] == "bed")
    rows = np.load(tmp_path / "out" / "predicted_instance.npy") == bed["id"]
    np.testing.assert_allclose(bed["centre"], means[rows].mean(axis=0), atol=0.01)
    axes, centre, size = (np.array(bed["box"][key]) for key in ("axes", "centre", "size"))
    inside = np.abs((means[rows] - centre) @ axes.T) <= size / 2 + 0.01
    assert inside.all()
    np.testing.assert_allclose(axes[2], [0, -1, 0], atol=1e-6)


def test_labels_in_a_compressed_ply(tmp_path: Path) -> None:
    source = FILES / "source.compressed.ply"
    n = len(read_scene(source))
    features = perfect(tmp_path / "features", "source.compressed", np.arange(n) % 4)
    options = ("--up", "off", "--scale", "off", "--outliers", "off", "--min-size", 1)
    result = call(source, *ASK, "--features", features, "--out", tmp_path / "out", *options)
    assert result.exception is None, result.exception
    written = next((tmp_path / "out").glob("*.ply"))
    _, old, tail = plain_table(source)
    _, new, new_tail = plain_table(written)
    assert new_tail == tail
    for name, values in old.items():
        assert new[name] == values, name
    np.testing.assert_array_equal(np.frombuffer(b"".join(new["predicted_class"]), "<i4"), np.arange(n) % 4)


def test_labels_in_a_sog(tmp_path: Path) -> None:
    scene, truth = room()
    source = write_sog(scene, tmp_path / "in.sog")  # type: ignore[arg-type]
    placed = read_scene(source).means  # the format sorts its rows
    near = np.linalg.norm(placed[:, None] - scene.means[None], axis=2).argmin(axis=1)  # type: ignore[attr-defined]
    features = perfect(tmp_path / "features", "in", truth[near])
    result = call(source, *ASK, "--features", features, "--out", tmp_path / "out")
    assert result.exception is None, result.exception
    written = tmp_path / "out" / "in.sog"
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(written) as after:
        for name in before.namelist():
            if name != "meta.json":
                assert after.read(name) == before.read(name), name
        meta, old = json.loads(after.read("meta.json")), json.loads(before.read("meta.json"))
        for key, value in old.items():
            assert meta[key] == value, key
        added = [name for name in after.namelist() if name not in before.namelist()]
        pictures = {name: np.asarray(Image.open(io.BytesIO(after.read(name)))) for name in added}
    pixels = pictures["predicted_class.webp"]
    assert pixels.shape[2] == 4
    seen = np.ascontiguousarray(pixels).view("<i4").reshape(-1)[: len(truth)]
    np.testing.assert_array_equal(seen, truth[near])
    np.testing.assert_array_equal(read_properties(written)["predicted_class"], truth[near])


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    scene, truth = room()
    source = write_ply(scene, tmp_path / "in" / "room.ply")  # type: ignore[arg-type]
    features = perfect(tmp_path / "features", "room", truth)
    before = source.read_bytes()
    asked = ("--features", features, "--text", "embedded:text")
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    out = ("--out", tmp_path / "out")
    for arguments, message in (
        ((source, "--classes", "chair,chair", *asked, *out), "'chair' is there twice"),
        ((source, "--classes", " , ", *asked, *out), "holds no class names"),
        ((source, "--classes", tmp_path / "empty.txt", *asked, *out), "holds no class names"),
        ((source, "--classes", "gone.txt", *asked, *out), "not a readable list of names"),
        ((source, "--classes", "chair", *asked, "--out", tmp_path / "in"), "would be written over"),
        ((source, "--classes", "chair", *out), "no text-aligned teacher"),
        ((tmp_path / "gone.ply", "--classes", "chair", *asked, *out), "no such scene"),
        ((source, "--classes", "chair", *asked, *out, "--instances", "masks"), "store"),
    ):
        result = call(*arguments)
        assert isinstance(result.exception, ChorusError), (arguments, result.output, result.exception)
        assert message in str(result.exception), (arguments, result.exception)
        assert "\n" not in str(result.exception)
    assert source.read_bytes() == before


def test_class_names(tmp_path: Path) -> None:
    assert read_classes("scannet20") == SCANNET20
    assert read_classes("chair, coffee table") == ("chair", "coffee table")
    (tmp_path / "names").write_text("chair\n# furniture\ncoffee table\n")
    assert read_classes(str(tmp_path / "names")) == ("chair", "coffee table")


def test_confidence_is_a_softmax() -> None:
    rng = np.random.default_rng(0)
    text = rng.normal(size=(5, 8))
    text = (text / np.linalg.norm(text, axis=1, keepdims=True)).astype(np.float32)
    values = np.vstack([rng.normal(size=(20, 8)), np.zeros((1, 8))]).astype(np.float32)
    classes, confidence = nearest_class(values, text)
    for row, value in enumerate(values[:-1]):
        score = np.exp((value / np.linalg.norm(value)) @ text.T / 0.02)
        assert classes[row] == score.argmax()
        np.testing.assert_allclose(confidence[row], score.max() / score.sum(), rtol=1e-3)
    assert classes[-1] == -1
    assert confidence[-1] == 0


@given(st.integers(1, 30), st.integers(0, 10_000), st.booleans())
def test_a_box_holds_its_points(n: int, seed: int, flat: bool) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 3)) * (1, 0 if flat else 1, 1)
    box = oriented_box(points)
    assert (np.abs((points - box.centre) @ box.axes.T) <= box.size / 2 + 1e-6).all()
    np.testing.assert_allclose(box.axes @ box.axes.T, np.eye(3), atol=1e-9)
    turns = np.linspace(0, np.pi / 2, 91)
    areas = [
        np.prod(np.ptp(points[:, :2] @ np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]), 0)) for t in turns
    ]
    assert box.size[0] * box.size[1] <= min(areas) + 1e-6
    assert box.in_file(Alignment()).as_dict() == box.as_dict()


def test_a_query_keeps_the_rows_and_harmonics_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.heat_picture.WIDTH", 64)
    monkeypatch.setattr("evaluation.heat_picture.HEIGHT", 48)
    scene, truth = room()
    source = write_ply(scene, tmp_path / "in" / "room.ply")  # type: ignore[arg-type]
    features = perfect(tmp_path / "features", "room", truth)
    asked = ["query", source, "chair", *ASK[2:], "--features", features, "--up", "off", "--scale", "off", "--out"]
    for out, more, n in (("a", [], 1), ("b", ["--threshold", "1"], 0)):
        result = CliRunner().invoke(cli, [str(a) for a in [*asked, tmp_path / out, *more]], standalone_mode=False)
        assert result.exception is None, result.exception
        objects = json.loads((tmp_path / out / "query.json").read_text())["objects"]
        assert len(objects) == n
        _, old, _ = plain_table(source)
        for file, column, kind in (("heat.ply", "relevancy", "<f4"), ("objects.ply", "rank", "<i4")):
            _, new, _ = plain_table(tmp_path / out / file)
            for name, values in old.items():
                assert name.startswith("f_dc_") or new[name] == values, name
            given = np.frombuffer(b"".join(new[column]), kind)
            if column == "relevancy":
                np.testing.assert_array_equal(given > 0.5, truth == 0)
            elif n:
                np.testing.assert_array_equal(given == 0, truth == 0)
        if n:
            np.testing.assert_allclose(objects[0]["box"]["centre"], [0.75, 0.75, 0.45], atol=0.06)


def test_predictions_have_the_rows_and_the_numbering_of_the_text_file(tmp_path: Path) -> None:
    scene, truth = room()
    source = write_ply(scene, tmp_path / "in" / "room.ply")  # type: ignore[arg-type]
    loaded = scene_at(source).load()
    target = open_target(loaded, "gaussians", "scannet20")
    classes = np.array([SCANNET20.index(name) for name in NAMES], np.int32)[truth]
    folder = PredictionFolder(tmp_path / "out", "scannet20", SCANNET20)
    folder.semantic("student", target, classes[loaded.gaussians.source_ids])
    written = next((tmp_path / "out").rglob("room_semantic.ply"))
    _, old, _ = plain_table(source)
    _, new, _ = plain_table(written)
    for name, values in old.items():
        assert name.startswith("f_dc_") or new[name] == values, name
    ids = np.frombuffer(b"".join(new["predicted_id"]), "<i4")
    lines = next((tmp_path / "out").rglob("room.txt")).read_text().split()
    np.testing.assert_array_equal(ids, np.array(lines, int))
    np.testing.assert_array_equal(ids, np.array(SCANNET20_NYU40_IDS)[classes])
    assert read_scene(written).labels is None, "a prediction is no ground truth"
