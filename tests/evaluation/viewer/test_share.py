"""chorus-eval share: one page, the same bytes every time, small beside .spz, with no word to the network."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.runtime.errors import ChorusError, ConfigError
from chorus_common.scene_io import write_ply
from chorus_common.scene_io.spz_write import write_spz
from evaluation.cli import cli
from evaluation.prompts import class_embeddings
from stage2_distill.student import save_student
from tests.evaluation.instance_rooms import BOXES, room_with_instances
from tests.evaluation.rooms import WordVectors
from tests.evaluation.student import make_student

NAMES = tuple(box[0] for box in BOXES)
UPRIGHT = ("--up", "off", "--scale", "off")
TEXT = ("--text", "embedded:text", "--prompts", "plain")


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.sources.load_text_encoder", lambda spec: WordVectors())


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False)


def room_file(folder: Path, per_box: int) -> tuple[Path, Path]:
    """(a room without truth in an order of no meaning, the folder of features that say its classes)"""
    scene = room_with_instances(0, per_box)
    order = np.random.default_rng(1).permutation(len(scene))
    bare = replace(scene.select(order), labels=None, instances=None, label_space="", source_rows=0)
    source = write_ply(replace(bare, source_ids=np.arange(len(order))), folder / "in" / "room.ply")
    (folder / "features").mkdir()
    truth = np.repeat(np.arange(len(BOXES)), per_box)[order]
    np.save(folder / "features" / "room.npy", class_embeddings(WordVectors(), NAMES, templates="plain")[truth])
    return source, folder / "features"


def opened(page: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(what the page says of the scene, its blocks)"""
    text = page.read_text(encoding="utf-8")
    document = json.loads(re.search(r'id="scene">(.*?)</script>', text, re.S).group(1))  # type: ignore[union-attr]
    found = re.findall(r'id="block-(\w+)">([^<]*)</script>', text)
    blocks = {k: np.frombuffer(zlib.decompress(base64.b64decode(v)), np.uint8) for k, v in found}
    if document["objects"]:
        document["objects"] = json.loads(blocks["described"].tobytes())
    return document, blocks


def test_a_page_holds_everything_in_few_bytes(tmp_path: Path) -> None:
    source, features = room_file(tmp_path, 4000)
    out = tmp_path / "page.html"
    asked = (source, *UPRIGHT, "--features", features, *TEXT, "--classes", ",".join(NAMES), "--query", "chair",
             "--query", " bed ", "--out", out)  # fmt: skip
    result = call("share", *asked)
    assert result.exception is None, result.exception
    assert "buttons: colour, features, prediction, “chair”, “bed”, " in result.output
    first = out.read_bytes()
    assert call("share", *asked).exception is None
    assert out.read_bytes() == first
    document, blocks = opened(out)
    assert [layer["name"] for layer in document["layers"]] == ["colour", "features", "prediction", "“chair”", "“bed”"]
    n = document["splats"]["rows"]
    assert n == 16_000
    assert all(
        len(blocks[layer["block"]]) == n * (3 if layer["kind"] == "rgb" else 1) for layer in document["layers"][1:]
    )
    assert sum(o["class"] in ("chair", "bed") for o in document["objects"]) >= 2
    spz = write_spz(room_with_instances(0, 4000), tmp_path / "room.spz").stat().st_size
    assert len(first) < 1.3 * spz
    html = first.decode()
    assert not re.findall(r"(?:src|href)\s*=", html)
    assert "http" not in re.sub(r'id="(block-\w+|code)">[^<]*<', "", html)


def test_labels_of_a_run_are_shown_without_an_encoder(tmp_path: Path) -> None:
    source, features = room_file(tmp_path, 300)
    labels = tmp_path / "labelled"
    given = (source, "--classes", ",".join(NAMES), "--features", features, *TEXT, *UPRIGHT)
    assert call("label", *given, "--out", labels, "--radius", 0.9).exception is None
    result = call("share", source, *UPRIGHT, "--labels", labels, "--out", tmp_path / "page.html")
    assert result.exception is None, result.exception
    document, blocks = opened(tmp_path / "page.html")
    assert [layer["name"] for layer in document["layers"]] == ["colour", "labels"]
    listed = json.loads((labels / "labels.json").read_text())["objects"]
    assert [(o["class"], o["count"]) for o in document["objects"]] == [(o["class"], o["count"]) for o in listed]
    members = blocks["objects"][:1200].astype(int) + 256 * blocks["objects"][1200:].astype(int)
    assert [(members == o["id"] + 1).sum() for o in listed] == [o["count"] for o in listed]


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    source, features = room_file(tmp_path, 50)
    evil = "</script><script>alert(1)</script>"
    out = tmp_path / "page.html"
    result = call("share", source, *UPRIGHT, "--features", features, *TEXT, "--query", evil, "--out", out)
    assert result.exception is None, result.exception
    assert evil not in out.read_text()
    assert opened(out)[0]["layers"][-1]["name"] == f"“{evil}”"


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    source, features = room_file(tmp_path, 50)
    page = ("--out", tmp_path / "page.html")
    for arguments, words in (
        ((tmp_path / "none.ply", *page), "none.ply: no such scene"),
        ((source, "--out", tmp_path / "page.ply"), "a page is an .html file"),
        ((source, "--query", "chair", *page), "need features; give --encoder"),
        ((source, "--features", features, *TEXT, "--query", " ", *page), "no words"),
        ((source, "--labels", tmp_path, *page), "labels.json: no such result"),
        ((source, "--features", features, *TEXT, "--head", "dino", *page), "no other head 'dino'; known: none"),
        ((source, "--label-space", "nyu40", *page), "unknown label space 'nyu40'"),
        ((source, "--max-gaussians", 199, *page), "200 Gaussians"),
    ):
        found = call("share", *arguments).exception
        assert isinstance(found, ChorusError), (arguments, found)
        assert words in str(found), (arguments, str(found))
        assert "\n" not in str(found)


def test_view_says_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, features = room_file(tmp_path, 50)
    served = []
    monkeypatch.setattr("evaluation.viewer.server.ViewerServer.serve", lambda server: served.append(server.model))
    result = call("view", source, *UPRIGHT, "--features", features, *TEXT, "--classes", ",".join(NAMES), "--port", 0)
    assert result.exception is None, result.exception
    assert re.search(r"open http://127\.0\.0\.1:\d+ \(Ctrl-C ends\)", result.output)
    assert served[0].modes == ("colour", "features", "prediction")


def test_a_student_without_its_text_side_still_shows_its_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(spec: str) -> WordVectors:
        raise ConfigError(f"{spec}: the text side is not here")

    monkeypatch.setattr("evaluation.features.load_text_encoder", absent)
    source, _ = room_file(tmp_path, 50)
    n = WordVectors.channels
    save_student(make_student(PhiSStandardiser(np.zeros(n), np.eye(n), 1.0, np.ones(n))), tmp_path / "student")
    asked = ("share", source, *UPRIGHT, "--encoder", tmp_path / "student", "--out", tmp_path / "page.html")
    result = call(*asked, "--head", "encoder")
    assert result.exception is None, result.exception
    assert "nothing can be asked in words" in result.output
    assert "buttons: colour, features, features: encoder" in result.output
    for more in (("--query", "chair"), ("--classes", "chair,table")):
        found = call(*asked, *more).exception
        assert isinstance(found, ConfigError)
        assert "the text side is not here" in str(found)
