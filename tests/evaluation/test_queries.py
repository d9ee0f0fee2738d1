"""chorus-eval query by a place and by a picture: what answers, whose head is asked, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from chorus_common.features.picture_vector import PictureVector
from chorus_common.runtime.errors import ChorusError
from chorus_common.scene_io import write_ply
from evaluation.cli import cli
from evaluation.features import ArrayFeatures
from evaluation.like_sources import Head, one_head, picture_vector
from evaluation.likeness import expanded, typical_features
from evaluation.relevancy import scene_relevancy
from evaluation.scenes import Selection, scene_at
from evaluation.sources import SourceOptions
from stage2_distill.encoder import build_encoder
from stage2_distill.student import Student, StudentTeacher, save_student
from tests.evaluation.instance_rooms import BOXES, room_with_instances
from tests.evaluation.student import TINY

DENSE, OBJECTS = "embedded-dense", "embedded-objects"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["query", *(str(a) for a in arguments)], standalone_mode=False)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.heat_picture.WIDTH", 64)
    monkeypatch.setattr("evaluation.heat_picture.HEIGHT", 48)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A room that lies y down in centimetres, without truth, and features/room.npy: one direction per object, with
    noise.
    """
    scene = room_with_instances(0)
    means = scene.means[:, [0, 2, 1]] * np.array([1, -1, 1]) * 100
    turned = replace(scene, means=means.astype(np.float32), scales=scene.scales * 100, labels=None, instances=None)
    rng = np.random.default_rng(0)
    kinds = unit(rng.normal(size=(len(BOXES), 64)))
    (tmp_path / "features").mkdir()
    features = np.repeat(kinds, 150, axis=0) + 0.02 * rng.normal(size=(len(scene), 64))
    np.save(tmp_path / "features" / "room.npy", features.astype(np.float32))
    PictureVector(kinds[2], "embedded:dense", "f").save(tmp_path / "table.npz")
    return write_ply(replace(turned, label_space=""), tmp_path / "in" / "room.ply")


FRAME = ("--up", "-y", "--scale", "0.01", "--outliers", "off")


def objects(room: Path, out: Path, *query: object) -> dict:
    result = call(room, *query, "--features", room.parent.parent / "features", *FRAME, "--out", out, "--json")
    assert result.exception is None, result.exception
    document = json.loads(result.stdout)
    assert document == json.loads((out / "query.json").read_text())
    return document


@pytest.mark.parametrize(("box", "place"), [(1, "75,-40,75"), (2, "300,-30,95"), (3, "120,-20,300")])
def test_a_place_finds_its_object(room: Path, tmp_path: Path, box: int, place: str) -> None:
    document = objects(room, tmp_path / "out", "--like-point", place)
    assert len(document["objects"]) == 1
    found = document["objects"][0]
    assert found["n_gaussians"] == 150
    low, size = np.array(BOXES[box][1]), np.array(BOXES[box][2])
    middle = (low + size / 2)[[0, 2, 1]] * [100, -100, 100]
    np.testing.assert_allclose(found["box"]["centre"], middle, atol=8)
    np.testing.assert_allclose(found["box"]["axes"][2], [0, -1, 0], atol=1e-6)
    assert document["inputs"]["like_point"] == [float(x) for x in place.split(",")]
    assert document["compared_with"] == "scene's other typical features"
    assert (tmp_path / "out" / "heat.png").read_bytes().startswith(b"\x89PNG")


def test_a_pictures_vector_finds_what_is_like_it(room: Path, tmp_path: Path) -> None:
    document = objects(room, tmp_path / "out", "--like-image", tmp_path / "table.npz")
    assert [o["n_gaussians"] for o in document["objects"]] == [150]
    np.testing.assert_allclose(document["objects"][0]["centre"], [300, -35, 95], atol=8)
    assert document["inputs"]["like_image"] == str(tmp_path / "table.npz")


def make_heads(folder: Path, *names: str, fingerprints: dict[str, str] | None = None) -> Path:
    """A student with these heads on an encoder with random weights."""
    teachers = {
        name: StudentTeacher(
            spec=name.replace("-", ":"),
            fingerprint=(fingerprints or {}).get(name, "f"),
            channels=64,
            hidden=16,
            space="unit",
            text_aligned=name == "embedded-text",
        )
        for name in names
    }
    save_student(Student(build_encoder("chorus-lite", **TINY), teachers).eval(), folder)
    return folder


def head_of(encoder: Path, room: Path, *, picture: bool, teacher: str | None = None) -> Head:
    options = SourceOptions(encoder=encoder, teacher=teacher)
    return one_head(options, Selection([scene_at(room)]), picture=picture)


def test_a_picture_is_asked_through_the_generalist_and_a_place_through_the_text_head(
    room: Path, tmp_path: Path
) -> None:
    student = make_heads(tmp_path / "student", "embedded-text", OBJECTS, DENSE)
    assert head_of(student, room, picture=True).teacher == DENSE
    assert head_of(student, room, picture=False).teacher == "embedded-text"
    assert head_of(student, room, picture=True, teacher=OBJECTS).spec == "embedded:objects"
    blind = make_heads(tmp_path / "blind", DENSE)
    assert head_of(blind, room, picture=False).teacher == DENSE


def test_the_picture_is_encoded_by_the_heads_own_teacher(room: Path, tmp_path: Path) -> None:
    from stage1_render_teachers.picture_embedding import embed_picture, read_picture
    from stage1_render_teachers.teachers import build_teacher

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(tmp_path / "a.png")
    teacher = build_teacher("embedded:objects")
    right = make_heads(tmp_path / "right", OBJECTS, fingerprints={OBJECTS: teacher.fingerprint})
    found = picture_vector(tmp_path / "a.png", head_of(right, room, picture=True), "cpu")
    wanted = embed_picture(teacher, read_picture(tmp_path / "a.png"))
    np.testing.assert_allclose(found.vector, wanted.vector, atol=1e-6)
    other = head_of(make_heads(tmp_path / "other", OBJECTS), room, picture=True)
    with pytest.raises(ChorusError, match=r"a\.png: was encoded by other weights of embedded:objects"):
        picture_vector(tmp_path / "a.png", other, "cpu")
    (tmp_path / "no.png").write_bytes(b"GIF89a")
    with pytest.raises(ChorusError, match=r"no\.png: not a readable picture"):
        picture_vector(tmp_path / "no.png", other, "cpu")


def test_bad_queries_are_one_line(room: Path, tmp_path: Path) -> None:
    features = ("--features", tmp_path / "features")
    text_only = make_heads(tmp_path / "student", "embedded-text")
    (tmp_path / "a.png").write_bytes(b"x")
    np.savez(tmp_path / "wrong.npz", other=np.ones(3))
    PictureVector(np.array([1, 0], np.float32), "embedded:dense", "f").save(tmp_path / "narrow.npz")
    for arguments, message in (
        ((), "give WORDS, --like-point or --like-image, one of them"),
        (("chair", "--like-point", "1,2,3", *features), "one of them"),
        (("--like-point", "75,400,75", *features, *FRAME), "no Gaussian within 0.5 m; the nearest lies at"),
        (("--like-point", "1,2,3", *features, "--text", "embedded:text"), "needs neither"),
        (("--like-point", "1,2,3"), "one of --encoder, --features and --lifted"),
        (("--like-point", "1,2,3", "--lifted"), "has no teacher whose features could be asked"),
        (("--like-point", "1,2,3", "--encoder", text_only, "--teacher", "dino"), "no teacher 'dino'; it has embedded-"),
        (("--like-image", tmp_path / "a.png", "--encoder", text_only), "has no generalist head to ask with a picture"),
        (("--like-image", tmp_path / "gone.png", *features), "gone.png: no such picture"),
        (("--like-image", tmp_path / "a.png", *features), "does not say which teacher its features answer to"),
        (("--like-image", tmp_path / "wrong.npz", *features), "no vector of a picture"),
        (("--like-image", tmp_path / "narrow.npz", *features, *FRAME), "have 64 channels, the picture's vector 2"),
    ):
        result = call(room, *arguments, "--out", tmp_path / "out")
        assert isinstance(result.exception, ChorusError), (arguments, result.output, result.exception)
        assert message in str(result.exception), (arguments, result.exception)
        assert "\n" not in str(result.exception)
    for place in ("1,2", "a,b,c", "1,2,nan"):
        result = call(room, "--like-point", place, *features, "--out", tmp_path / "out")
        assert "is no place; give three numbers" in str(result.exception)


def test_words_that_the_text_side_does_not_know_are_refused(room: Path, tmp_path: Path) -> None:
    asked = ("--features", tmp_path / "features", "--text", "embedded:text", "--out", tmp_path / "out")
    for words in ("стул", "xqzvkw"):
        result = call(room, words, *asked)
        assert isinstance(result.exception, ChorusError)
        assert "the embedded text side does not know" in str(result.exception)


@given(st.integers(0, 1000), st.integers(1, 6))
def test_typical_features_leave_the_query_its_own_cluster(seed: int, groups: int) -> None:
    """With well separated groups, exactly the query's group is more like the query than like anything else typical."""
    rng = np.random.default_rng(seed)
    kinds = np.linalg.qr(rng.normal(size=(32, groups)))[0].T
    owner = np.concatenate([np.arange(groups), rng.integers(groups, size=200)])
    rows = unit(kinds[owner] + 0.01 * rng.normal(size=(len(owner), 32))) * rng.uniform(0.5, 2, (len(owner), 1))
    query = unit(kinds[:1] + 0.01 * rng.normal(size=(1, 32)))
    features = ArrayFeatures(rows.astype(np.float32))
    others = typical_features(features, len(rows), query)
    assert 1 <= len(others) <= 16
    np.testing.assert_allclose(np.linalg.norm(others, axis=1), 1, rtol=1e-5)
    if groups > 1:
        cosine = others @ kinds.T.astype(np.float32)
        for k in range(1, groups):
            assert cosine[:, k].max() > 0.95, "every other group is among what is typical"
        hot = scene_relevancy(features, len(rows), query, others[cosine[:, 0] < 0.9])[:, 0] > 0.5
        np.testing.assert_array_equal(hot, owner == 0)


def test_expansion_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(100, 8)).astype(np.float32)
    rows[7] = 0
    query = unit(rng.normal(size=(1, 8)))
    known = [row / np.linalg.norm(row) for row in rows if row.any()]
    mean = np.mean(known, axis=0)
    scored = sorted(((row - mean) @ (query[0] - mean) / np.linalg.norm(row - mean), i) for i, row in enumerate(known))
    best = np.mean([known[i] for _, i in scored[-16:]], axis=0)
    found = expanded(ArrayFeatures(rows), len(rows), query)
    np.testing.assert_allclose(found[0], best / np.linalg.norm(best), atol=1e-5)
