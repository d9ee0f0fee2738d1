"""Every command that takes an encoder takes a checkpoint of the released Chorus, by path and by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from chorus_common.runtime.errors import ChorusError
from chorus_common.scene_io import write_scene
from evaluation.batch.matrix import BatchConfig, Cell
from evaluation.batch.run import cell_key
from evaluation.cli import cli
from evaluation.sources import SourceOptions, output_sources
from tests.evaluation.rooms import Rooms, WordVectors

GOLDEN = Path(__file__).parents[1] / "data" / "chorus_3dgs_small.pth"
NAME = "chorus-3dgs"


def call(*arguments: object, codes: tuple[int, ...] = (0,)) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    assert (result.return_value or 0) in codes
    return result.output


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a published model, whose file (the golden one, `lang` in the tests' text space) lies where the
    environment says.
    """
    state = torch.load(GOLDEN, weights_only=True)["state_dict"]
    for key, value in state.items():
        if "projectors.lang.mlp_head.2" in key:
            state[key] = value[: WordVectors.channels]
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save({"state_dict": state}, folder / f"{NAME}.pth")
    monkeypatch.setenv("CHORUS_CHECKPOINT_DIR", str(folder))
    return NAME


def rows_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["rows"]


def test_zero_shot_and_query(released: str, rooms: Rooms, tmp_path: Path) -> None:
    where = ("--store", rooms.store, "--manifest", rooms.manifest, "--split", "val")
    out = tmp_path / "z.json"
    more = ("--encoder", released, "--no-lifted", "--teacher", "lang", "--random")
    call("zero-shot", *where, *more, "--out", out, codes=(1,))  # the manifest names a scene that the store lacks
    assert set(rows_of(out)) == {"student", "random"}
    weights = json.loads(out.read_text())["inputs"]["encoder_weights"]
    assert (weights["name"], weights["repository"]) == (NAME, "SceneSplatPro/Chorus")
    assert (len(weights["sha256"]), weights["licence"]) == (64, "CC BY-SA 4.0")
    write_scene(next(iter(rooms.scenes.values())), tmp_path / "room.ply")
    call("query", tmp_path / "room.ply", "chair", "--encoder", released, "--teacher", "lang", "--out", tmp_path / "q")
    assert (tmp_path / "q" / "query.json").is_file()


def test_own_output_for_probe_and_retrieval(released: str, rooms: Rooms, tmp_path: Path) -> None:
    where = ("--store", rooms.store, "--manifest", rooms.manifest, "--split", "val", "--encoder", released)
    call("probe", *where, "--points-per-scene", 50, "--out", tmp_path / "p.json", codes=(1,))
    assert set(rows_of(tmp_path / "p.json")) == {"trained", "random"}
    assert set(output_sources(SourceOptions(encoder=Path(released), random=True), "encoder")) == {"encoder", "random"}


def test_finetune(released: str, rooms: Rooms, tmp_path: Path) -> None:
    small = (
        "--set",
        "steps=2",
        "--set",
        "batch_size=1",
        "--set",
        "max_points=300",
        "--mode",
        "linear",
        "--device",
        "cpu",
    )
    where = ("--store", rooms.store, "--manifest", rooms.manifest, "--encoder", released)
    call("finetune", *where, *small, "--out", tmp_path / "f.json", codes=(0, 1))
    assert rows_of(tmp_path / "f.json")


def test_batch_finds_weights_by_name(released: str, rooms: Rooms) -> None:
    config = BatchConfig.model_validate(
        {
            "encoders": {"official": released},
            "datasets": {"rooms": {"manifest": str(rooms.manifest)}},
            "tasks": {"t": {"command": "probe"}},
        }
    )
    cell = Cell("t", "probe", "official", "rooms", 0, "", ("probe",))
    assert len(cell_key(config, cell)) == 64
    wrong = config.model_copy(update={"encoders": {"official": "chorus-3dsg"}})
    with pytest.raises(ChorusError, match=r"encoder official: chorus-3dsg: .*did you mean 'chorus-3dgs'"):
        cell_key(wrong, cell)


def test_without_a_text_side_it_is_one_line(released: str, rooms: Rooms, tmp_path: Path) -> None:
    where = ("--store", rooms.store, "--manifest", rooms.manifest, "--split", "val", "--no-lifted")
    with pytest.raises(ChorusError, match="no teacher 'sam'; known: dino, lang"):
        call("zero-shot", *where, "--encoder", released, "--teacher", "sam", "--out", tmp_path / "z.json")
    with pytest.raises(ChorusError, match=r"nowhere\.pth: no such file or folder"):
        call("zero-shot", *where, "--encoder", tmp_path / "nowhere.pth", "--out", tmp_path / "z.json")
