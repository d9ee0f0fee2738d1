"""chorus-stage2 as people call it: a run from a store, the lines that bad input gets, encoding, describing."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from chorus_common.cache import SceneCache
from chorus_common.runtime.devices import pick_device
from chorus_common.runtime.errors import CacheError, ConfigError
from chorus_common.scene_io import write_scene
from stage2_distill import cli, encode
from stage2_distill.encoder import build_encoder, export_encoder, preset_config
from stage2_distill.sources import find_scenes, open_scenes, read_standardisers
from stage2_distill.student import load_student
from tests.stage2.store_fakes import make_entries, make_standardisers, publish_store
from tests.stage2.test_inputs import scene
from tests.stage2.train_child import TINY

SPLITS = {"room0": "train", "room1": "train", "room2": "train", "room3": "val"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with store/, scenes/, manifest.parquet and tiny.toml."""
    folder = tmp_path_factory.mktemp("stage2")
    publish_store(folder / "store", make_entries(scenes=4, n=200), SPLITS)
    nested: dict[str, str] = {}
    for setting in TINY:
        key, _, value = setting.partition("=")
        nested[key] = value
    (folder / "tiny.toml").write_text("".join(f"{k} = {v}\n" for k, v in nested.items()))
    return folder


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of `chorus-stage2 ARGUMENTS` in this process."""
    monkeypatch.setattr(sys, "argv", ["chorus-stage2", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def train_arguments(root: Path, out: Path) -> list[object]:
    store, manifest = root / "store", root / "manifest.parquet"
    return [
        "train",
        "--store",
        store,
        "--manifest",
        manifest,
        "--config",
        root / "tiny.toml",
        "--out",
        out,
        "--device",
        "cpu",
    ]


def test_train_encode_and_describe(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*train_arguments(root, tmp_path / "run"), "--val-split", "val", "--set", "epochs=2"]
    assert call(monkeypatch, *arguments) == 0
    said = capsys.readouterr().err
    assert "3 scenes, 1 for validation, teachers dense, text" in said
    student = load_student(tmp_path / "run")
    assert student.config.teachers["text"].text_aligned
    assert not student.config.teachers["dense"].text_aligned
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["kind"] for r in log] == ["step"] * 4 + ["validation"]
    assert load_student(tmp_path / "run" / "best").teachers == student.teachers
    # the same command again finds everything done
    before = (tmp_path / "run" / "state.safetensors").read_bytes()
    assert call(monkeypatch, *arguments) == 0
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == before

    scene = root / "scenes" / "room3"
    for extra, width in (([], student.encoder.out_channels), (["--teacher", "text", "--dtype", "f16"], 8)):
        out = tmp_path / "f.npy"
        assert (
            call(monkeypatch, "encode", scene, "--encoder", tmp_path / "run", "--out", out, "--device", "cpu", *extra)
            == 0
        )
        features = np.load(out, allow_pickle=False)
        assert features.shape == (200, width)
        assert features.dtype == (np.float16 if extra else np.float32)
        assert np.isfinite(features).all()
    capsys.readouterr()
    assert call(monkeypatch, "encode", scene, "--encoder", tmp_path / "run", "--out", out, "--teacher", "sam") == 2
    assert "this student has no output 'sam'; it has dense, text" in capsys.readouterr().err

    assert call(monkeypatch, "info", "--encoder", tmp_path / "run", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["n_parameters"] == sum(p.numel() for p in student.encoder.parameters())
    assert facts["teachers"]["text"]["channels"] == 8
    shutil.copytree(tmp_path / "run" / "best", tmp_path / "copied")  # a student without its run
    assert call(monkeypatch, "info", "--encoder", tmp_path / "copied", "--json") == 0
    assert json.loads(capsys.readouterr().out)["teachers"].keys() == facts["teachers"].keys()


def test_encode_in_blocks_and_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    room = scene(600, side=0.4)
    write_scene(room, tmp_path / "room.ply")
    torch.manual_seed(0)
    both = {"features": ("coord", "color", "opacity", "quat", "scale"), "indicator": True}
    small = {"enc_channels": (24, 36, 48), "enc_patch_size": (32, 32, 32)}
    export_encoder(build_encoder("chorus-lite", inputs=both, **small), tmp_path / "both")
    export_encoder(build_encoder("chorus-lite", **small), tmp_path / "gaussians")

    def features(name: str, *extra: object, scene: str = "room.ply") -> np.ndarray:
        out, where = tmp_path / "f.npy", ("--device", "cpu")
        assert (
            call(monkeypatch, "encode", tmp_path / scene, "--encoder", tmp_path / name, "--out", out, *where, *extra)
            == 0
        )
        assert [p.name for p in tmp_path.glob(".f.npy*")] == []  # nothing is left on the disk
        return np.load(out, allow_pickle=False)

    whole = features("both", "--tta-rotations", "2")
    assert whole.shape == (600, 48)
    for rows in (50, 333):
        blocks = features("both", "--tta-rotations", "2", "--block-voxels", rows, "--scratch", tmp_path / "disk")
        assert np.abs(blocks - whole).max() < 1e-4 * np.abs(whole).max()

    # a point cloud is known by its file; the encoder is told what it lacks
    np.save(tmp_path / "points.npy", np.concatenate([room.means, room.colors * 255], axis=1).astype(np.float32))
    points = features("both", scene="points.npy")
    assert np.array_equal(points, features("both", "--input", "points", scene="points.npy"))
    assert not np.array_equal(points, features("both", "--input", "gaussians", scene="points.npy"))
    features("gaussians", scene="points.npy")
    capsys.readouterr()
    arguments = ("encode", tmp_path / "room.ply", "--out", tmp_path / "g.npy", "--input", "points", "--encoder")
    assert call(monkeypatch, *arguments, tmp_path / "gaussians") == 2
    assert "was not trained to do without (inputs.indicator)" in capsys.readouterr().err


def test_memory_decides_on_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config, cpu = preset_config("scenesplat"), torch.device("cpu")
    assert 0 < encode.free_memory(cpu) < 1 << 50
    for free, expected in ((1 << 40, None), (1 << 20, encode.BLOCK_ROWS)):
        monkeypatch.setattr(encode, "free_memory", lambda device, free=free: free)
        assert encode.Blocks(tmp_path).rows_for(100_000, config, cpu) == expected
        assert encode.Blocks(tmp_path, rows=7).rows_for(100_000, config, cpu) == 7


def test_export_and_describe_published_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"enc_channels": (24, 36, 48), "enc_depths": (1, 1, 1), "enc_patch_size": (32, 32, 32)}
    ours, theirs = tmp_path / "ours", tmp_path / "theirs.pth"
    export_encoder(build_encoder("scenesplat", **sizes), ours)
    assert call(monkeypatch, "export", ours, "--format", "scenesplat", "--out", theirs) == 0
    capsys.readouterr()
    facts = []
    for path in (ours, theirs):
        assert call(monkeypatch, "info", "--encoder", path, "--json") == 0
        facts.append(json.loads(capsys.readouterr().out))
        assert facts[-1].pop("weights")["name"] == str(path)
    assert facts[0] == facts[1]
    assert facts[0]["conventions"]["pool_reduce"] == "mean"

    foreign = torch.load(theirs, weights_only=True)
    torch.save({"state_dict": foreign["state_dict"]}, theirs)  # as a trainer that does not know us writes it
    assert call(monkeypatch, "export", theirs, "--out", tmp_path / "again") == 2
    assert "theirs.pth: widths (24, 36, 48) belong to no published preset" in capsys.readouterr().err
    assert call(monkeypatch, "export", theirs, "--preset", "scenesplat", "--out", tmp_path / "again") == 0
    assert call(monkeypatch, "export", ours, "--format", "sonata", "--out", tmp_path / "x.pth") == 2
    assert "has no counterpart among the published models of format 'sonata'" in capsys.readouterr().err


def test_limits_of_control_groups_count(tmp_path: Path) -> None:
    job = tmp_path / "slurm" / "job_1"
    job.mkdir(parents=True)
    for group, limit, used in ((job, "max", "5"), (job.parent, "1000", "300")):
        (group / "memory.max").write_text(limit + "\n")
        (group / "memory.current").write_text(used + "\n")
    assert encode.free_in_groups(tmp_path, "/slurm/job_1") == [700]
    assert encode.free_in_groups(tmp_path, "/") == []


def test_info_of_a_preset(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "info", "--preset", "ptv3", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["n_parameters"] == 46_166_272
    assert facts["out_channels"] == preset_config("ptv3").out_channels
    assert facts["preset"] == "ptv3"
    assert facts["conventions"]["color_range"] == "unit"
    assert facts["conventions"]["legacy_decoder_cpe"] is True
    assert call(monkeypatch, "info", "--preset", "chorus-lite") == 0
    assert "n_parameters" in capsys.readouterr().out
    assert call(monkeypatch, "info", "--preset", "corus") == 2
    assert "unknown encoder preset 'corus'" in capsys.readouterr().err
    assert call(monkeypatch, "info") == 2
    assert "info takes either --preset or --encoder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--set", "optim.lrr=1"], "unknown key 'optim.lrr'; did you mean 'optim.lr'?"),
        (["--set", "epochs=0"], "'epochs': Input should be greater than or equal to 1"),
        (["--set", "teachers.txet.weight=1"], "no scene has features of teacher 'txet'; did you mean 'text'?"),
        (["--set", "encoder.preset=big"], "unknown encoder preset 'big'"),
        (["--set", "data.weights.made-up=0"], "data.weights leaves nothing to draw from made-up; give one a positive"),
        (["--set", "data.points_p=0.5"], "data.points_p > 0 takes encoder.overrides.inputs.indicator = true"),
        (["--set", "teachers.clip.b16.weight=1"], """quoted: --set 'teachers."clip.b16".weight=...'"""),
        (["--set", "data.weights.other=1"], "data.weights names data set 'other', the stores hold made-up"),
        (["--split", "test"], "no scene in split 'test'"),
        (["--device", "gpu0"], "--device gpu0: use auto, cpu, cuda or cuda:N"),
        (["--store", "elsewhere"], "elsewhere: no such store; run chorus-stage1 run --store elsewhere first"),
    ],
)
def test_bad_input_gets_one_line_and_code_2(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    extra: list[str],
    message: str,
) -> None:
    assert call(monkeypatch, *train_arguments(root, tmp_path / "run"), *extra) == 2
    err = capsys.readouterr().err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in err


def test_other_settings_for_the_same_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*train_arguments(root, tmp_path / "run"), "--set", "epochs=1"]
    assert call(monkeypatch, *arguments) == 0
    capsys.readouterr()
    assert call(monkeypatch, *arguments, "--set", "seed=5") == 2
    assert "holds a run with other settings (seed: 0, now 5)" in capsys.readouterr().err


def test_scenes_come_from_stores_and_manifest(root: Path) -> None:
    said: list[str] = []
    every = find_scenes([root / "store"], None, None, said.append)
    assert [(d, s) for d, s, _ in every] == [("made-up", f"room{i}") for i in range(4)]
    train = find_scenes([root / "store"], root / "manifest.parquet", "train", said.append)
    assert [s for _, s, _ in train] == ["room0", "room1", "room2"]
    assert said == []
    with pytest.raises(ConfigError, match="--split train needs --manifest"):
        find_scenes([root / "store"], None, "train", said.append)


def test_missing_scenes_are_reported_and_doubled_ones_refused(tmp_path: Path) -> None:
    entries = make_entries(scenes=3, n=60)
    publish_store(tmp_path / "all" / "store", entries)
    manifest = tmp_path / "all" / "manifest.parquet"
    publish_store(tmp_path / "part" / "store", entries[1:])
    said: list[str] = []
    found = find_scenes([tmp_path / "part" / "store"], manifest, "train", said.append)
    assert [s for _, s, _ in found] == ["room1", "room2"]
    assert said == ["warning: 1 of 3 scenes are not in the store (first: made-up/room0) and are left out"]
    with pytest.raises(CacheError, match="scene made-up/room1 is in two stores"):
        find_scenes([tmp_path / "all" / "store", tmp_path / "part" / "store"], None, None, said.append)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CacheError, match="holds none of the 3 wanted scenes"):
        find_scenes([tmp_path / "empty"], manifest, "train", said.append)


def test_stores_of_another_schema_and_damaged_ones_are_named(tmp_path: Path) -> None:
    entries = make_entries(scenes=1, n=60)
    publish_store(tmp_path / "store", entries)
    found = find_scenes([tmp_path / "store"], None, None, print)
    path = found[0][2]
    weights = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CacheError, match=r"room0.zarr"):
        open_scenes(found)


def test_standardiser_must_be_the_one_the_features_were_made_with(tmp_path: Path) -> None:
    entries = make_entries(scenes=2, n=60)
    publish_store(tmp_path / "store", entries)
    scenes = open_scenes(find_scenes([tmp_path / "store"], None, None, print))
    assert set(read_standardisers([tmp_path / "store"], scenes, [])) == {"text", "dense"}
    path = tmp_path / "store" / "standardisers" / "text.safetensors"
    make_standardisers(make_entries(seed=9, scenes=1))["text"].save(path)
    with pytest.raises(CacheError, match="scene room0: features of teacher text were made with another standardiser"):
        read_standardisers([tmp_path / "store"], scenes, ["text"])
    path.unlink()
    with pytest.raises(CacheError, match=r"text.safetensors: no such standardiser; run chorus-stage1 calibrate"):
        read_standardisers([tmp_path / "store"], scenes, ["text"])


def test_store_gives_the_targets_of_the_entries_it_was_made_from(tmp_path: Path) -> None:
    entries = make_entries(scenes=1, n=120)
    publish_store(tmp_path / "store", entries)
    cache = SceneCache.open(tmp_path / "store" / "made-up" / "room0.zarr")
    sums, weight = cache.lifting().lift(cache.features("text").reshape(-1, 8))
    memory = entries[0].store
    expected, total = memory.lifting().lift(memory.features("text").reshape(-1, 8))
    seen = total > 0
    # The store drops up to 2 % of a Gaussian's weight (its smallest entries): with standardised features that can move
    # a lifted value by a few hundredths.
    np.testing.assert_allclose(sums[seen] / weight[seen, None], expected[seen] / total[seen, None], atol=0.06)
    np.testing.assert_array_equal(cache.scene().means, memory.scene().means)
    assert torch.cuda.is_available() or pick_device("auto").type == "cpu"


def test_adapt_starts_from_a_student_and_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *train_arguments(root, tmp_path / "run"), "--set", "epochs=1") == 0
    more = [f"--set={s}" for s in ("epochs=1", "data.cover=0.0", "batch_size=1", "threads=1")]
    place = ["--store", root / "store", "--manifest", root / "manifest.parquet", "--device", "cpu"]
    arguments = ["adapt", "--student", tmp_path / "run", *place, "--out", tmp_path / "adapted", *more]
    for _ in range(2):
        assert call(monkeypatch, *arguments) == 0
    before, after = (load_student(tmp_path / name).state_dict() for name in ("run", "adapted"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(v, before[k]) for k, v in after.items())
    record = json.loads((tmp_path / "adapted" / "train.json").read_text())
    assert record["config"]["objective"] == "rendered"
    capsys.readouterr()
    for wrong, message in (
        (["--student", tmp_path / "nothing"], "no such file or folder"),
        (["--student", tmp_path / "run", "--set", "lora.rnk=2"], "unknown key 'lora.rnk'; did you mean 'lora.rank'?"),
    ):
        assert call(monkeypatch, "adapt", *wrong, *place, "--out", tmp_path / "wrong", *more) == 2
        assert message in capsys.readouterr().err
