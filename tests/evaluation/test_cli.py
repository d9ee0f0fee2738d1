"""The programs, from arguments to files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chorus_common.cache import SceneCache
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.runtime.errors import ChorusError
from evaluation.cli import cli
from stage2_distill.student import save_student
from tests.evaluation.rooms import TEACHER, Rooms, make_rooms
from tests.evaluation.student import fake_tta, make_student


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False)


def done(*arguments: object, code: int = 0) -> str:
    result = call(*arguments)
    if result.exception is not None:
        raise result.exception
    assert (result.return_value or 0) == code
    return result.output


@pytest.fixture
def student(rooms: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in ("evaluation.features", "evaluation.report.pictures"):
        monkeypatch.setattr(f"{module}.encode_tta", fake_tta)
    monkeypatch.setattr("evaluation.report.pictures.PICTURE_SIZE", 64)
    folder = tmp_path / "run" / "student"
    save_student(make_student(PhiSStandardiser.load(rooms.store / "standardisers" / f"{TEACHER}.safetensors")), folder)
    records = [
        {"kind": "step", "step": i, "loss": 2 - i / 50, "teachers": {TEACHER: {"cosine": i / 50}}} for i in range(50)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def test_from_rooms_to_report(rooms: Rooms, student: Path) -> None:
    run = student.parent
    where = ("--store", rooms.store, "--manifest", rooms.manifest)
    zero_shot = ("zero-shot", *where, "--split", "val", "--encoder", student, "--out", run / "zero_shot.json")
    # Exit code 1: the manifest names a scene that the store lacks.
    output = done(*zero_shot, code=1)
    assert "student" in output
    assert "lifted_teacher" in output
    document = json.loads((run / "zero_shot.json").read_text())
    assert document["command"].startswith(f"chorus-eval zero-shot --store {rooms.store}")
    assert set(document["rows"]) == {"student", "lifted_teacher", "lifted_teacher_seen_only"}
    assert document["inputs"]["teacher"] == TEACHER
    assert document["excluded"] == {
        "toy/missing_0": "not in the store; run chorus-stage1",
        "toy/zz_0": "no ground truth",
    }
    table = done("compare", run / "zero_shot.json", run / "zero_shot.json", "--row-b", "lifted_teacher", "--draws", 100)
    scores = [100 * document["rows"][name]["miou"] for name in ("student", "lifted_teacher")]
    assert f"| miou | {scores[0]:.1f} | {scores[1]:.1f} |" in table
    first = (run / "zero_shot.json").read_bytes()
    done(*zero_shot, code=1)
    assert (run / "zero_shot.json").read_bytes() == first, "same input, same bytes"

    probe = (
        "probe",
        *where,
        "--split",
        "val",
        "--encoder",
        student,
        "--points-per-scene",
        100,
        "--out",
        run / "probe.json",
    )
    done(*probe, code=1)

    out = run / "report"
    output = done("report", "--run", run, "--out", out, "--views", 1, "--query", "chair", "--seconds", 90, "--json")
    results = json.loads(output)
    assert results == json.loads((run / "results.json").read_text()) == json.loads((out / "results.json").read_text())
    assert results["seconds"] == 90
    assert results["zero_shot"]["student"]["miou"] == document["rows"]["student"]["miou"]
    assert {"student", "lifted_teacher"} <= set(results["zero_shot"])
    assert {"trained", "random"} == set(results["linear_probe"])
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == page.count("<img src=")
    assert "http" not in page, "the page needs nothing from anywhere"
    for text in (document["command"], "lifted teacher", "Encoder output", "“chair”", "missing_0"):
        assert text in page
    assert len(list(out.glob("view*_query0.png"))) == 1
    text = done("report", "--run", run, "--out", out, "--views", 0)
    assert "Linear probe (probe.json): IoU per class" in text
    _, n_views = SceneCache.open(rooms.store / "toy" / "val_0.zarr").visibility()
    lines = text.split("Zero-shot segmentation (zero_shot.json): per scene")[1].splitlines()
    assert lines[1].startswith("scene")
    assert "seen by 3 views" in lines[1]
    assert lines[2].split()[:2] == ["toy/val_0", f"{100 * (n_views >= 3).mean():.1f}"]


def test_text_from_data_is_escaped(rooms: Rooms, student: Path) -> None:
    run = student.parent
    done(
        "zero-shot",
        "--store",
        rooms.store,
        "--manifest",
        rooms.manifest,
        "--no-lifted",
        "--encoder",
        student,
        "--out",
        run / "z.json",
        code=1,
    )
    document = json.loads((run / "z.json").read_text())
    document["command"] = "<script>alert(1)</script>"
    document["excluded"] = {"<b>x": "<i>why"}
    (run / "z.json").write_text(json.dumps(document))
    done("report", "--run", run, "--out", run / "report", "--views", 1, "--query", "<u>chair")
    page = (run / "report" / "report.html").read_text()
    for bad in ("<script>alert", "<b>x", "<i>why", "<u>chair"):
        assert bad not in page


def test_without_manifest_and_without_lifted(rooms: Rooms, student: Path, tmp_path: Path) -> None:
    done("zero-shot", "--store", rooms.store, "--no-lifted", "--encoder", student, "--out", tmp_path / "r.json")
    document = json.loads((tmp_path / "r.json").read_text())
    assert list(document["rows"]) == ["student"]
    assert len(document["per_scene"]) == 4


def test_bad_input_is_one_line(rooms: Rooms, student: Path, tmp_path: Path) -> None:
    where = ("--store", rooms.store, "--manifest", rooms.manifest, "--out", tmp_path / "r.json")
    for arguments, message in (
        (("zero-shot", *where, "--split", "test"), "no scenes in split 'test'"),
        (("zero-shot", *where, "--no-lifted"), "nothing to evaluate"),
        (("zero-shot", *where, "--prompts", "clip"), "unknown prompts 'clip'"),
        (("zero-shot", *where, "--teacher", "clip"), "no teacher 'clip'; known: text"),
        (("zero-shot", *where, "--encoder", tmp_path), "config.json: no such file"),
        (("zero-shot", *where, "--features", tmp_path), "val_0.npy"),
        (("probe", *where, "--encoder", student, "--split", "train"), "both 'train'"),
        (("probe", "--store", rooms.store, "--out", tmp_path / "p.json", "--encoder", student), "needs --manifest"),
        (("report", "--run", tmp_path, "--out", tmp_path / "o"), "holds no results"),
    ):
        result = call(*arguments)
        assert isinstance(result.exception, ChorusError), (arguments, result.output, result.exception)
        assert message in str(result.exception), (arguments, result.exception)
        assert "\n" not in str(result.exception)
    assert not (tmp_path / "r.json").exists()


def test_student_of_another_teacher_is_refused(rooms: Rooms, student: Path, tmp_path: Path) -> None:
    config = json.loads((student / "config.json").read_text())
    config["teachers"][TEACHER]["spec"] = "open_clip:ViT-B-16:openai"
    (student / "config.json").write_text(json.dumps(config))
    result = call("zero-shot", "--store", rooms.store, "--encoder", student, "--out", tmp_path / "r.json")
    assert "the student's is open_clip:ViT-B-16:openai; use --no-lifted" in str(result.exception)


def test_report_of_moved_stores_says_what_to_do(tmp_path: Path) -> None:
    rooms = make_rooms(tmp_path / "a", train=0, val=1, n=100)
    done("zero-shot", "--store", rooms.store, "--out", tmp_path / "r.json")
    rooms.store.rename(tmp_path / "elsewhere")
    result = call("report", "--run", tmp_path, "--out", tmp_path / "o")
    assert "not there any more" in str(result.exception)
    assert "--views 0" in str(result.exception)


def test_program_exits_with_2_and_one_line(tmp_path: Path) -> None:
    arguments = ["probe", "--store", tmp_path, "--encoder", tmp_path, "--out", tmp_path / "r.json"]
    command = [sys.executable, "-c", "from evaluation.cli import main; main()", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("error: probe needs --manifest")
    assert run.stderr.count("\n") == 1
