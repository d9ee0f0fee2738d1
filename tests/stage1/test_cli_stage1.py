"""chorus-stage1 as a user meets it: output, exit codes, one line for bad input."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from stage1_render_teachers import cli
from stage1_render_teachers import run as run_module
from stage1_render_teachers.run import RunSummary
from stage1_render_teachers.settings import RunConfig
from tests.stage1.small_rooms import write_rooms

SMALL = [
    "--set=width=64", "--set=height=48", "--set=cell=8", "--teachers=embedded:dense", "--teachers=embedded:masks",
]  # fmt: skip


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run chorus-stage1 with some words; (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["chorus-stage1", *map(str, words)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        output = capsys.readouterr()
        return int(exit.value.code or 0), output.out, output.err

    return run


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rooms(tmp_path_factory.mktemp("rooms"), 2, n_views=3)


def test_the_whole_life_of_a_store(call, rooms: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    where = ["--manifest", rooms, "--store", tmp_path / "s"]
    code, out, _ = call("calibrate", *where, *SMALL)
    assert (code, out.strip()) == (0, f"fitted {tmp_path / 's' / 'standardisers' / 'embedded-dense.safetensors'}")
    assert call("calibrate", *where, *SMALL)[1].startswith("all standardisers are there")
    code, out, err = call("run", *where, *SMALL, "--shard", "1/2")
    assert code == 0
    assert out.startswith("1 done in ")
    assert "stage 1: 1/1" in err
    state = json.loads(call("status", *where, "--json")[1])
    assert (state["done"], state["pending"], state["failed"]) == (1, 1, {})
    assert call("status", *where, "--at-least", "0.5")[0] == 0
    code, _, err = call("status", *where, "--at-least", "0.6")
    assert (code, err) == (1, "error: 1 of 2 scenes are done, --at-least 0.6\n")
    code, out, _ = call("run", *where, *SMALL, "--json")
    assert code == 0
    assert json.loads(out)["counts"] == {"done": 1, "skipped": 1}
    code, out, _ = call("verify", *where)
    assert (code, out) == (0, "2 scenes checked, 0 damaged, 0 not published\n")

    victim = next(file for file in sorted((tmp_path / "s" / "tiny").rglob("c/*")) if file.is_file())
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(bytes(data))
    code, out, _ = call("verify", *where)
    assert code == 1
    assert "damaged: tiny/scene00: " in out
    code, out, _ = call("verify", *where, "--json")
    assert code == 1
    assert list(json.loads(out)["problems"]) == ["tiny/scene00"]


def test_patience_of_a_run_is_set_on_the_command_line(  # type: ignore[no-untyped-def]
    call, rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[RunConfig] = []
    monkeypatch.setattr(run_module, "run_stage1", lambda *work, **_: given.append(work[3]) or RunSummary())
    code, _, _ = call("run", "--manifest", rooms, "--store", tmp_path, "--retries", 4, "--max-failures", 7)
    assert (code, given[0].retries, given[0].max_failures) == (0, 4, 7)


def test_a_failed_scene_gives_exit_code_1_and_its_reason(call, rooms: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    copy = tmp_path / "rooms"
    shutil.copytree(rooms.parent, copy)
    shutil.rmtree(copy / "scene00")
    where = ["--manifest", copy / "manifest.parquet", "--store", tmp_path / "s"]
    code, out, err = call("run", *where, "--teachers=embedded:masks", *SMALL[:3])
    assert code == 1
    assert "1 done, 1 failed" in out
    assert "failed: tiny/scene00: " in err
    code, out, _ = call("status", *where)
    assert code == 1
    assert "1 done, 1 failed, 0 pending of 2 scenes" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--teachers=embedded:mask"], "did you mean 'embedded:masks'?"),
        (["--set=bitz=4"], "unknown key 'bitz'; did you mean 'bits'?"),
        (["--set=bits=5"], "'bits"),
        (["--set=teachers=[]"], "name at least one teacher"),
        (["--teachers=embedded:dense", "--teachers=embedded:dense"], "a teacher is named twice"),
        (["--set=cell=0"], "'cell'"),
        (["--set=background=[nan,0,0]"], "'background"),
        (["--set=background=[0,0,2]"], "'background"),
        (["--set=alignment.up='sideways'"], "is no direction"),
        (["--up=sideways"], "--up: 'sideways' is no direction"),
        (["--teachers=embedded:text", "--device=bogus"], "--device bogus: use auto, cpu, cuda or cuda:N"),
        (["--teachers=embedded:text", "--device=cuda:99"], "CUDA devices found; use --device cpu"),
        (["--set=rasterizer=cpus"], "did you mean 'cpu'"),
        (["--shard=3/2"], "expected i/n"),
        (["--split=val"], "no scene of split val"),
        (["--config=/nowhere.toml"], "no such config file"),
        (["--scheduler=/nowhere.json"], "no such file"),
        (["--slurm=/nowhere.toml"], "no such config file"),
        (["--store=s3://"], "write s3://BUCKET/PATH"),
        (["--store=ftp://bucket/caches"], "takes a folder or an address"),
        (["--workers=-1"], "'--workers'"),
        (["--workers=two"], "not a valid integer"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(  # type: ignore[no-untyped-def]
    call, rooms: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    code, _, err = call("run", "--manifest", rooms, "--store", tmp_path / "s", *words)
    assert code == 2, err
    assert message in err
    assert "Traceback" not in err


def test_stores_and_manifests_that_are_not_there_are_named(call, rooms: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert "no such manifest" in call("run", "--manifest", tmp_path / "m", "--store", tmp_path / "s")[2]
    for command in ("status", "verify"):
        code, _, err = call(command, "--manifest", rooms, "--store", tmp_path / "s")
        assert (code, "no such folder" in err) == (2, True)
    for number, text in enumerate(('{"address": 5}', '{"address": "bogus"}', "[]")):
        file = tmp_path / f"{number}.json"
        file.write_text(text)
        code, _, err = call("run", "--manifest", rooms, "--store", tmp_path / "s", "--scheduler", file)
        assert (code, err) == (2, f"error: --scheduler {file}: not a scheduler file of dask\n")
    (tmp_path / "file").write_text("")
    code, _, err = call("run", "--manifest", rooms, "--store", tmp_path / "file")
    assert (code, err) == (2, f"error: --store {tmp_path / 'file'}: is a file; give a folder\n")
