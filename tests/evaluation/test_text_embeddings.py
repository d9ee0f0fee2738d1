"""--text-embeddings FILE at the command line: a checkpoint of the released Chorus answers without a text network."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from chorus_common.labels import SCANNET20
from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.scene_io import write_npy_folder, write_scene
from chorus_common.text import load_text_encoder
from chorus_common.text.relevancy import CANONICAL_PHRASES
from evaluation import cli
from evaluation.features import StudentFeatures
from evaluation.likeness import expanded, typical_features
from evaluation.scenes import scene_at
from stage2_distill.student import load_student
from tests.chorus_common.text.siglip_files import NAME, OUT, write_open_clip, write_transformers
from tests.evaluation.instance_rooms import room_with_instances
from tests.evaluation.rooms import Rooms, make_scene

GOLDEN = Path(__file__).parents[1] / "data" / "chorus_3dgs_small.pth"
CHANNELS = 48  # of the golden file's `lang`
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """chorus-eval with arguments -> (exit code, what it said on stderr beside the scene check's notes)."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["chorus-eval", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = [line for line in capsys.readouterr().err.splitlines() if ": note: " not in line]
        return int(ended.value.code or 0), "\n".join(said)

    return call


def vectors(*phrases: str, channels: int = CHANNELS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {phrase: rng.normal(size=channels).astype(np.float32) for phrase in phrases}


def write(path: Path, values: dict[str, np.ndarray]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **values)  # type: ignore[arg-type]
    elif path.suffix == ".pt":
        torch.save({k: torch.from_numpy(v) for k, v in values.items()}, path)
    else:
        save_file({k: torch.from_numpy(v) for k, v in values.items()}, path)
    return path


@pytest.fixture
def room(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    write_scene(make_scene(0, labels=False), tmp_path / "in" / "room.ply")
    return tmp_path / "in" / "room.ply"


def expected_cosines(room: Path, phrases: dict[str, np.ndarray]) -> np.ndarray:
    """[N, K] of the encoder's own `lang` with the phrases, rows of the file."""
    loaded = scene_at(room).load()
    rows = StudentFeatures(load_student(GOLDEN), "lang").open(loaded).rows(0, len(loaded.gaussians))
    rows = rows[np.argsort(loaded.gaussians.source_ids)]
    return rows @ np.stack([v / np.linalg.norm(v) for v in phrases.values()]).T


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
def test_label_takes_the_nearest_phrase(run: Run, room: Path, tmp_path: Path, suffix: str) -> None:
    phrases = vectors("chair", "table", "Wooden Floor")
    file = write(tmp_path / f"phrases{suffix}", phrases)
    arguments = ["label", room, "--classes", "chair,table,wooden floor", "--encoder", GOLDEN, "--device", "cpu"]
    code, said = run(*arguments, "--text-embeddings", file, "--out", tmp_path / "out")
    assert (code, said) == (0, "")
    found = np.load(tmp_path / "out" / "predicted_class.npy")
    classes = expected_cosines(room, phrases).argmax(axis=1)
    assert (found == classes).mean() > 0.99  # rounding may turn a tie
    inputs = json.loads((tmp_path / "out" / "labels.json").read_text())["inputs"]
    assert (inputs["text_encoder"], inputs["prompts"]) == (f"file:{file}", "plain")


def test_query_is_lerfs_relevancy_of_the_vectors(
    run: Run, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.heat_picture.WIDTH", 64)
    monkeypatch.setattr("evaluation.heat_picture.HEIGHT", 48)
    phrases = vectors("a red chair", *CANONICAL_PHRASES)
    file = write(tmp_path / "phrases.npz", phrases)
    arguments = ["query", room, "a red chair", "--encoder", GOLDEN, "--device", "cpu", "--text-embeddings"]
    code, said = run(*arguments, file, "--out", tmp_path / "q")
    assert (code, said) == (0, "")
    document = json.loads((tmp_path / "q" / "query.json").read_text())
    assert (document["inputs"]["text_encoder"], document["inputs"]["prompts"]) == (f"file:{file}", "plain")
    cosines = expected_cosines(room, phrases)
    rivals = [1 / (1 + np.exp(-10 * (cosines[:, 0] - cosines[:, k]))) for k in range(1, 5)]
    assert document["relevancy"]["max"] == pytest.approx(np.min(rivals, axis=0).max(), abs=1e-4)
    lost = write(tmp_path / "lost.npz", vectors("a red chair", "object"))
    code, said = run(*arguments, lost, "--out", tmp_path / "q")
    assert code == 2
    assert "lost.npz: lacks the phrases things, stuff, texture" in said


def test_words_without_canonical_phrases_are_compared_with_the_scene(
    run: Run, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of one phrase answers as a picture of it would: see evaluation.likeness."""
    monkeypatch.setattr("evaluation.heat_picture.WIDTH", 64)
    monkeypatch.setattr("evaluation.heat_picture.HEIGHT", 48)
    phrases = vectors("a red chair")
    file = write(tmp_path / "one.npz", phrases)
    arguments = ["query", room, "a red chair", "--encoder", GOLDEN, "--device", "cpu", "--text-embeddings", file]
    code, said = run(*arguments, "--out", tmp_path / "q")
    assert code == 0, said
    document = json.loads((tmp_path / "q" / "query.json").read_text())
    assert document["compared_with"] == "scene's other typical features"
    assert document["inputs"]["text_encoder"] == f"file:{file}"
    loaded = scene_at(room).load()
    features = StudentFeatures(load_student(GOLDEN), "lang").open(loaded)
    n = len(loaded.gaussians)
    unit = phrases["a red chair"] / np.linalg.norm(phrases["a red chair"])
    query = expanded(features, n, unit[None])
    rows = features.rows(0, n)
    cosines = rows @ np.concatenate([query, typical_features(features, n, query)]).T
    rivals = [1 / (1 + np.exp(-10 * (cosines[:, 0] - cosines[:, k]))) for k in range(1, cosines.shape[1])]
    assert document["relevancy"]["max"] == pytest.approx(np.min(rivals, axis=0).max(), abs=1e-4)


def test_zero_shot_and_instances(run: Run, tmp_path: Path) -> None:
    scene = room_with_instances(0)
    write_npy_folder(scene, tmp_path / "toy" / "room")
    row = ManifestRow("toy", "room", "val", "npy-folder", tmp_path / "toy" / "room", None, "scannet20", 1, "0" * 64)
    manifest = Manifest(tmp_path, (row,)).write(tmp_path / "manifest.parquet")
    file = write(tmp_path / "scannet20.safetensors", vectors(*SCANNET20))
    asked = ["--manifest", manifest, "--encoder", GOLDEN, "--text-embeddings", file, "--device", "cpu", "--out"]
    for task, more in (("zero-shot", []), ("instances", ["--proposals", "truth"])):
        code, said = run(task, *more, *asked, tmp_path / f"{task}.json")
        assert code == 0, said
        document = json.loads((tmp_path / f"{task}.json").read_text())
        inputs = document["inputs"]
        assert inputs["text_encoder"] == f"file:{file}"
        assert (inputs["teacher"], inputs["prompts"]) == ("lang", "plain")
        if task == "zero-shot":
            assert "chorus_release" in document["rows"]["student"]["published_definitions"]


@pytest.mark.parametrize("task", ["zero-shot", "label", "query"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("narrow.npz", "no teacher has the 7 channels of"),
        ("strangers.npz", "has no vector of 'chair' (5 phrases); did you mean"),
        ("broken.npz", "broken.npz: not a file of text embeddings"),
        ("nowhere.npz", "nowhere.npz: no such file of text embeddings"),
        ("words.txt", "words.txt: text embeddings are a .npz, .safetensors or .pt file"),
        ("flat.npz", "flat.npz: expected one vector [C] per phrase"),
        ("zero.npz", "zero.npz: the vector of 'chair' has no direction"),
    ],
)
def test_wrong_files_are_one_line_and_exit_code_two(
    run: Run, room: Path, rooms: Rooms, tmp_path: Path, task: str, name: str, message: str
) -> None:
    """Before the encoder runs: a long encoding must not end in a missing phrase."""
    file = tmp_path / name
    if name in ("narrow.npz", "strangers.npz"):
        words = (*SCANNET20, *CANONICAL_PHRASES) if name == "narrow.npz" else ("chiar", *CANONICAL_PHRASES)
        write(file, vectors(*words, channels=7 if name == "narrow.npz" else CHANNELS))
    elif name in ("broken.npz", "words.txt"):
        file.write_bytes(b"PK\x03\x04 nothing")
    elif name != "nowhere.npz":
        np.savez(file, chair=np.zeros(CHANNELS) if name == "zero.npz" else np.ones((2, CHANNELS)))
    arguments = {
        "zero-shot": [
            "zero-shot",
            "--manifest",
            rooms.manifest,
            "--store",
            rooms.store,
            "--split",
            "val",
            "--no-lifted",
        ],
        "label": ["label", room, "--classes", "chair,table"],
        "query": ["query", room, "chair"],
    }[task]
    if task == "zero-shot" and name == "strangers.npz":
        message = "has no vector of "
    out = tmp_path / "out.json" if task == "zero-shot" else tmp_path / "out"
    code, said = run(*arguments, "--encoder", GOLDEN, "--device", "cpu", "--text-embeddings", file, "--out", out)
    assert code == 2
    lines = said.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not out.exists()


def test_two_text_sides_and_a_wrong_one(run: Run, room: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "phrases.npz", vectors("chair", "table"))
    arguments = ["label", room, "--classes", "chair,table", "--encoder", GOLDEN, "--device", "cpu", "--out"]
    code, said = run(*arguments, tmp_path / "o", "--text-embeddings", file, "--text", "embedded:text")
    assert (code, "give one of them" in said) == (2, True)
    code, said = run(*arguments, tmp_path / "o", "--text-embeddings", file, "--teacher", "dino")
    assert (code, "teacher 'dino'" in said, "gives 32 channels" in said) == (2, True, True)
    code, said = run(*arguments, tmp_path / "o", "--text", "open_clip:ViT-B-16:openai")
    assert (code, "is no text side of its teachers" in said) == (2, True)


def test_the_text_side_of_a_student_by_another_way(run: Run, room: Path, tmp_path: Path) -> None:
    """--text transformers:FOLDER in place of the open_clip model that the released Chorus names."""
    before = list(open_clip.factory._MODEL_CONFIG_PATHS)
    state = load_file(write_open_clip(tmp_path / "open_clip"))
    open_clip.factory._MODEL_CONFIG_PATHS[:] = before
    open_clip.factory._MODEL_CONFIGS.pop(NAME)
    folder = write_transformers(tmp_path / "siglip2", state)
    assert OUT == CHANNELS
    arguments = [
        "label",
        room,
        "--classes",
        "chair,table",
        "--encoder",
        GOLDEN,
        "--device",
        "cpu",
        "--prompts",
        "plain",
    ]
    code, said = run(*arguments, "--text", f"transformers:{folder}", "--out", tmp_path / "a")
    assert code == 0, said
    inputs = json.loads((tmp_path / "a" / "labels.json").read_text())["inputs"]
    assert inputs["text_encoder"] == f"transformers:{folder}"
    words = ("chair", "table")
    rows = load_text_encoder(f"transformers:{folder}").encode(list(words))
    file = write(tmp_path / "same.npz", dict(zip(words, rows)))
    code, said = run(*arguments, "--text-embeddings", file, "--out", tmp_path / "b")
    assert code == 0, said
    first, second = (np.load(tmp_path / name / "predicted_class.npy") for name in "ab")
    assert np.array_equal(first, second)
