"""chorus-eval label for a store's scene: the cache's masks as objects, written into the scene's own file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from chorus_common.camera_io import write_transforms_json
from chorus_common.manifest import Manifest, ManifestRow, path_digest
from chorus_common.runtime.errors import ChorusError
from chorus_common.scene_io import write_ply
from chorus_common.text import load_text_encoder
from evaluation.cli import cli
from evaluation.features import LiftedTeacher
from evaluation.prompts import class_embeddings
from evaluation.scenes import scene_at
from evaluation.sources import lifted_teacher
from stage1_render_teachers.run import run_stage1
from stage1_render_teachers.settings import RunConfig
from tests.chorus_common.test_scene_io_convert import plain_table
from tests.stage1.small_rooms import CONFIG, ring_of_cameras, tiny_scene

NAMES = ("chair", "table", "floor")
#: A row of the file that lies apart from all others.
STRAY = 17


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scene.ply, whose row STRAY is an outlier, and store/tiny/scene.zarr with two teachers."""
    root = tmp_path_factory.mktemp("made")
    scene = tiny_scene(3, 500)
    means = scene.means.copy()
    means[STRAY] = (0, 0, -60)
    order = np.random.default_rng(0).permutation(len(scene))
    order = np.concatenate([order[order != STRAY][:STRAY], [STRAY], order[order != STRAY][STRAY:]])
    bare = replace(scene, means=means, labels=None, label_space="").select(order)
    source = write_ply(replace(bare, source_ids=np.arange(len(scene)), source_rows=0), root / "scene.ply")
    write_transforms_json(ring_of_cameras(6), root / "transforms.json")
    row = ManifestRow(
        "tiny", "scene", "train", "inria-ply", source, root / "transforms.json", "", len(scene), path_digest(source)
    )
    Manifest(root, (row,)).write(root / "manifest.parquet")
    config = CONFIG.model_copy(update={"teachers": ("embedded:text", "embedded:masks")})
    summary = run_stage1([row], root / "store", config, RunConfig())
    assert summary.counts == {"done": 1}, summary.failures
    return root


@pytest.fixture(autouse=True)
def real_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.features.load_text_encoder", load_text_encoder)


def label(made: Path, out: Path, *more: object) -> Result:
    arguments = ["label", made / "store" / "tiny" / "scene.zarr", "--classes", ",".join(NAMES), "--lifted", *more]
    return CliRunner().invoke(cli, [str(a) for a in [*arguments, "--out", out]], standalone_mode=False)


@pytest.mark.parametrize("instances", ["auto", "clusters"])
def test_a_stores_scene_is_labelled_in_its_own_file(made: Path, tmp_path: Path, instances: str) -> None:
    result = label(made, tmp_path, "--file", made / "scene.ply", "--instances", instances, "--min-size", 5)
    assert result.exception is None, result.exception
    document = json.loads((tmp_path / "labels.json").read_text())
    assert document["objects_from"] == {"auto": "masks", "clusters": "clusters"}[instances]
    assert document["objects"]
    lines, old, _ = plain_table(made / "scene.ply")
    new_lines, new, _ = plain_table(tmp_path / "scene.ply")
    assert [line for line in new_lines if "predicted_" not in line] == lines
    for name, values in old.items():
        assert new[name] == values, name
    classes, ids = (np.frombuffer(b"".join(new[f"predicted_{n}"]), "<i4") for n in ("class", "instance"))
    confidence = np.frombuffer(b"".join(new["predicted_confidence"]), "<f4")
    assert (classes[STRAY], ids[STRAY], confidence[STRAY]) == (-1, -1, 0), "left out in stage 1, but it keeps its row"
    where = scene_at(made / "store" / "tiny" / "scene.zarr")
    loaded = where.load()
    teacher: LiftedTeacher = lifted_teacher(where, "embedded-text")
    text = class_embeddings(load_text_encoder("embedded:text"), NAMES)
    features = teacher.open(loaded).rows(0, len(loaded.gaussians))
    for feature, row in zip(features, loaded.gaussians.source_ids):
        if not feature.any():
            assert ids[row] >= 0 or classes[row] == -1, "nothing sees it"
        elif instances == "clusters" or ids[row] < 0:
            assert classes[row] == (text @ feature).argmax()
    for entry in document["objects"]:
        rows = ids == entry["id"]
        assert entry["count"] == rows.sum()
        assert set(classes[rows]) == {entry["class_id"]}
        if instances == "auto":
            assert len(set(confidence[rows])) == 1, "an object of masks is named as a whole"


def test_classes_that_the_text_side_does_not_know_are_refused(made: Path, tmp_path: Path) -> None:
    arguments = ["label", made / "store" / "tiny" / "scene.zarr", "--lifted", "--file", made / "scene.ply"]
    for words, message in (("chair,кресло", "class 'кресло': the embedded text side"), ("guitar", "class 'guitar'")):
        given = [*arguments, "--classes", words, "--out", tmp_path / "no"]
        result = CliRunner().invoke(cli, [str(a) for a in given], standalone_mode=False)
        assert isinstance(result.exception, ChorusError)
        assert message in str(result.exception)
    assert not (tmp_path / "no").exists()
    given = [*arguments, "--classes", "scannet200", "--out", tmp_path / "all"]
    result = CliRunner().invoke(cli, [str(a) for a in given], standalone_mode=False)
    assert result.exception is None, result.exception
    assert "warning: 45 of the 200 classes of scannet200 mean nothing to embedded:text: pillow, " in result.stderr


def test_what_does_not_belong_together_is_one_line(made: Path, tmp_path: Path) -> None:
    other = write_ply(tiny_scene(4, 120), tmp_path / "in" / "other.ply")
    for more, message in (
        ((), "a store does not hold the scene's own file; give it with --file"),
        (("--file", made / "gone.ply"), "no such scene"),
        (("--file", other), "other.ply"),
        (("--file", made / "scene.ply", "--up", "-y"), "belong to chorus-stage1 run"),
    ):
        result = label(made, tmp_path / "out", *more)
        assert isinstance(result.exception, ChorusError), (more, result.output, result.exception)
        assert message in str(result.exception)
        assert "\n" not in str(result.exception)
