"""`chorus-stage2 encode`: outputs, files and formats, many scenes, what is done already, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.scene_io import write_scene
from stage2_distill.encode import encode_scene
from stage2_distill.encoder import load_encoder
from stage2_distill.inference.clouds import own_clouds
from stage2_distill.inference.outlier_filter import release_outliers
from stage2_distill.student import load_student, save_student
from tests.stage2.inference.golden_scene import golden_scene, weights, write_folder
from tests.stage2.inference.test_release_protocol import asked, encode


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return write_folder("3dgs", tmp_path / "room")


def test_own_protocol_is_one_pass_for_all_outputs(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    names = ("lang", "dino", "backbone_upcast", "backbone_last")
    assert encode(monkeypatch, room, "--encoder", weights("3dgs"), "--out", out, *asked(*names)) == 0
    student, scene = load_student(weights("3dgs")), golden_scene("3dgs")
    latent = encode_scene(student.encoder, scene)
    with torch.no_grad():
        expected = {n: student.to_teacher_space(n, latent).numpy() for n in ("lang", "dino")}
        last = student.encoder.forward_levels(next(own_clouds(scene, student.encoder.config).make).batch)[-1]
    expected |= {"backbone_upcast": latent.numpy(), "backbone_last": last.feat.numpy()}
    for name, values in expected.items():
        np.testing.assert_allclose(np.load(out / f"room_{name}.npy"), values, atol=1e-5)
    record = json.loads((out / "room_encode.json").read_text())
    assert (record["status"], record["gaussians"], record["passes"], record["voxels"]) == ("done", 1276, 1, 1199)
    assert record["encoder"]["bytes"] == weights("3dgs").stat().st_size
    assert len(record["encoder"]["sha256"]) == 64


def test_rows_in_any_order_get_the_same_features(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = np.random.default_rng(1).permutation(1276)
    write_folder("3dgs", tmp_path / "mixed", order)
    for name in ("room", "mixed"):
        arguments = [tmp_path / name, "--encoder", weights("3dgs"), "--out", tmp_path / f"{name}.npy"]
        assert encode(monkeypatch, *arguments, "--output", "lang") == 0
    a, b = (np.load(tmp_path / f"{name}.npy") for name in ("room", "mixed"))
    np.testing.assert_allclose(a[order], b, atol=1e-6)


@pytest.mark.parametrize("fragments", [2, 3, None])
def test_fragments_against_a_plain_twin(fragments: int | None) -> None:
    """Fragment i shows member i mod count of every voxel, members by opacity; a row is the mean over those it is in,
    or over all where it is in none.
    """
    encoder, scene = load_encoder(weights("3dgs")), golden_scene("3dgs")
    clouds = own_clouds(scene, encoder.config, fragments=fragments)
    assert clouds.number == (fragments or 3)
    first = next(own_clouds(scene, encoder.config).make)
    members: dict[int, list[int]] = {}
    for row in np.argsort(-scene.opacities, kind="stable"):
        members.setdefault(int(first.voxel[row]), []).append(int(row))
    for i, cloud in enumerate(clouds.make):
        assert torch.equal(cloud.batch.grid_coord, first.batch.grid_coord)
        shown = [members[v][i % len(members[v])] for v in range(len(members))]
        np.testing.assert_allclose(cloud.batch.feat[:, 3].numpy(), scene.opacities[shown])
        unseen = [r for rows in members.values() for r in rows[clouds.number :]]
        assert set(cloud.rows.tolist()) == {*shown, *unseen}
        assert np.array_equal(cloud.voxel, first.voxel[cloud.rows])
        assert all(clouds.times[r] == clouds.number for r in unseen)
    counts = np.array([len(members[v]) for v in first.voxel.tolist()])
    alone = counts == 1
    assert (clouds.times[alone] == clouds.number).all()
    assert clouds.times.min() >= 1


def test_one_fragment_is_the_default(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, extra in (("a", []), ("b", ["--fragments", "1"]), ("c", ["--fragments", "all"])):
        arguments = [room, "--encoder", weights("3dgs"), "--out", tmp_path / f"{name}.npy", *extra]
        assert encode(monkeypatch, *arguments, "--output", "lang") == 0
    a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    assert np.array_equal(a, b)
    assert 0.9 < (a * c).sum(1).min() < (a * c).sum(1).max() <= 1 + 1e-5
    assert np.abs(a - c).max() > 1e-3


@pytest.mark.parametrize("format", ["pt", "safetensors"])
def test_formats(format: str, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("lang", "backbone_last")
    common = [room, "--encoder", weights("3dgs"), "--dtype", "f16", *asked(*names)]
    assert encode(monkeypatch, *common, "--out", tmp_path / "npy") == 0
    assert encode(monkeypatch, *common, "--out", tmp_path / "o", "--format", format) == 0
    files = {n: tmp_path / "o" / f"room_{n}_feat.{format}" for n in names}
    if format == "pt":
        lang, last = (torch.load(files[n], weights_only=True) for n in names)
    else:
        lang, last = load_file(files["lang"])["feat"], load_file(files["backbone_last"])
    expected = np.load(tmp_path / "npy" / "room_lang.npy")
    assert lang.dtype == torch.float16
    assert np.array_equal(lang.numpy(), expected)
    assert set(last) == {"feat", "coord", "grid_coord", "offset", "fragment"}
    assert np.array_equal(last["grid_coord"].numpy(), np.load(tmp_path / "npy" / "room_backbone_last_grid_coord.npy"))
    assert int(last["offset"][-1]) == len(last["feat"])
    assert encode(monkeypatch, *common[:-2], "--out", tmp_path / f"single.{format}") == 0
    assert (tmp_path / f"single.{format}").is_file()


def test_a_folder_of_scenes(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes, out = tmp_path / "scenes", tmp_path / "out"
    scenes.mkdir()
    shutil.move(room, scenes / "b")
    write_scene(golden_scene("3dgs"), scenes / "a.ply")
    (scenes / "broken.ply").write_bytes(b"ply\nformat ascii 1.0\nend_header\n")
    (scenes / "notes.txt").write_text("no scene")
    arguments = [scenes, "--encoder", weights("3dgs"), "--out", out, *asked("lang", "dino"), "--workers", "2"]
    assert encode(monkeypatch, *arguments) == 1
    said = capsys.readouterr().err
    assert "broken.ply" in said
    assert "2 of 3 scenes" in said
    np.testing.assert_allclose(np.load(out / "a_lang.npy"), np.load(out / "b_lang.npy"), atol=1e-4)
    assert json.loads((out / "broken_encode.json").read_text())["status"] == "failed"
    # the same command again does what is left; a scene that changed, or lost a file, is done anew
    times = {p.name: p.stat().st_mtime_ns for p in out.glob("*.npy")}
    write_scene(golden_scene("3dgs"), scenes / "broken.ply")
    (out / "b_dino.npy").unlink()
    assert encode(monkeypatch, *arguments) == 0
    after = {p.name: p.stat().st_mtime_ns for p in out.glob("*.npy")}
    assert {n for n in times if after[n] == times[n]} == {"a_lang.npy", "a_dino.npy"}
    assert set(after) == {f"{s}_{o}.npy" for s in ("a", "b", "broken") for o in ("lang", "dino")}
    assert not [p for p in out.iterdir() if p.name.startswith(".")]
    # one worker or two: the same bytes
    assert encode(monkeypatch, *arguments[:4], tmp_path / "one", *asked("lang", "dino")) == 0
    for name in after:
        assert (tmp_path / "one" / name).read_bytes() == (out / name).read_bytes()


def test_a_manifest(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tuple(
        ManifestRow("toy", name, "val", "npy-folder", room, None, "", 1276, "0" * 64) for name in ("first", "second")
    )
    Manifest(tmp_path, rows).write(tmp_path / "m.parquet")
    arguments = [tmp_path / "m.parquet", "--encoder", weights("3dgs"), "--out", tmp_path / "o"]
    assert encode(monkeypatch, *arguments, "--output", "lang") == 0
    assert sorted(p.name for p in (tmp_path / "o").glob("*.npy")) == ["first_lang.npy", "second_lang.npy"]


def test_outliers_are_marked_and_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masked rows are zeros and do not touch the others, whose features are those of a file without them."""
    scene = golden_scene("3dgs")
    scales, means = scene.scales.copy(), scene.means.copy()
    scales[[5, 700]] = 30.0  # (a), (b)
    scene = replace(scene, scales=scales, means=means)
    write_scene(scene, tmp_path / "room")
    arguments = [tmp_path / "room", "--encoder", weights("3dgs"), "--outlier-filter", *asked("lang", "dino")]
    for protocol in ("own", "release"):
        out = tmp_path / protocol
        assert encode(monkeypatch, *arguments, "--protocol", protocol, "--out", out) == 0
        marked = np.load(out / "room_outlier.npy")
        assert marked[[5, 700]].all()
        assert np.array_equal(marked, release_outliers(scene))
        write_scene(scene.select(~marked), tmp_path / f"kept-{protocol}")
        rest = [tmp_path / f"kept-{protocol}", *arguments[1:3], "--protocol", protocol, *asked("lang", "dino")]
        assert encode(monkeypatch, *rest, "--out", out) == 0
        for name in ("lang", "dino"):
            found = np.load(out / f"room_{name}.npy")
            assert not found[marked].any()
            np.testing.assert_allclose(found[~marked], np.load(out / f"kept-{protocol}_{name}.npy"), atol=1e-6)
    assert json.loads((out / "room_encode.json").read_text())["outliers"] == int(marked.sum())


def test_outlier_filter_against_a_plain_twin() -> None:
    rng = np.random.default_rng(0)
    scene = golden_scene("3dgs")
    scales = scene.scales * np.exp(rng.normal(0, 0.8, (len(scene), 1))).astype(np.float32)
    means = scene.means.copy()
    means[:20] += rng.uniform(5, 50, (20, 3)).astype(np.float32)  # floaters
    scales[:20] *= 6
    scene = replace(scene, scales=scales, means=means)
    largest = scales.max(1).astype(float)
    logs = [float(np.log(s)) for s in largest]
    median = float(np.median(logs))
    threshold = 0.5 * np.exp(median + 5 * np.median([abs(x - median) for x in logs]))
    bad = {i for i, s in enumerate(largest) if np.log(s) > np.log(threshold) or s > 10}
    left = [i for i in range(len(scene)) if i not in bad]
    cut = np.quantile(largest[left], 0.995)
    lonely = set()
    for i in left:
        if largest[i] >= cut:
            radius = min(0.25 * largest[i] ** 0.5, 2)
            near = sum(1 for j in left if j != i and np.linalg.norm(means[i].astype(float) - means[j]) <= radius)
            if near < 3:
                lonely.add(i)
    assert bad
    assert lonely
    assert set(np.flatnonzero(release_outliers(scene)).tolist()) == bad | lonely


def test_without_feeds_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = write_folder("pts", tmp_path / "room")
    arguments = [room, "--encoder", weights("pts"), "--output", "lang", "--out"]
    assert encode(monkeypatch, *arguments, tmp_path / "a.npy", "--without", "color") == 0
    scene = golden_scene("pts")
    write_scene(replace(scene, colors=np.full_like(scene.colors, 0.5)), tmp_path / "grey.ply")
    student = load_student(weights("pts"))
    with torch.no_grad():
        latent = encode_scene(student.encoder, scene, absent=("color",))
        expected = student.to_teacher_space("lang", latent).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), expected, atol=1e-5)


def test_weights_by_name(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the folder that the environment names, and a folder of ours."""
    monkeypatch.setenv("CHORUS_CHECKPOINT_DIR", str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    shutil.copy(weights("3dgs"), tmp_path / "mine" / "lang-dino-enc-pretrain-scan-ppv2-mp3d-mcmc.pth")
    save_student(load_student("chorus-3dgs"), tmp_path / "folder")
    for name, encoder in (("a", "chorus-3dgs"), ("b", tmp_path / "folder"), ("c", weights("3dgs"))):
        arguments = [room, "--encoder", encoder, "--out", tmp_path / f"{name}.npy", "--output", "lang"]
        assert encode(monkeypatch, *arguments) == 0
    a, b, c = ((tmp_path / f"{name}.npy").read_bytes() for name in "abc")
    assert a == b == c
    origin = json.loads((tmp_path / "a.json").read_text())["encoder"]
    assert (origin["repository"], origin["licence"]) == ("SceneSplatPro/Chorus", "CC BY-SA 4.0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--output", "sam"], "this student has no output 'sam'; it has dino, lang, backbone_upcast, backbone_last"),
        (["--output", "lang", "--output", "lang"], "output 'lang' is asked for twice"),
        (["--out", "x.npy", *asked("lang", "dino")], "x.npy: one file holds one output of one scene"),
        (["--out", "x.pt", "--output", "lang", "--format", "npy"], "ends in .pt, the format is npy"),
        (["--without", "normal"], "encoder chorus-3dgs takes no 'normal'; it takes color, opacity, quat, scale"),
        (["--fragments", "0"], "neither a number above 0 nor 'all'"),
        (["--fragments", "2", "--tta-rotations", "2"], "give one of them"),
        (["--encoder", "chorus-3dsg"], "did you mean 'chorus-3dgs'"),
    ],
)
def test_wrong_requests_are_one_line(
    change: list[str], message: str, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    base = [] if "--encoder" in change else ["--encoder", str(weights("3dgs"))]
    out = [] if "--out" in change else ["--out", "o"]
    assert encode(monkeypatch, room, *base, *out, *change) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_damaged_weights_and_missing_scenes(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = weights("3dgs").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    state = torch.load(weights("3dgs"), weights_only=True)["state_dict"]
    torch.save({"state_dict": {k: v for k, v in state.items() if ".dino." not in k}}, tmp_path / "one.pth")
    (tmp_path / "empty").mkdir()
    for scene, file, message in (
        (room, tmp_path / "cut.pth", "cut.pth: not a readable checkpoint"),
        (room, tmp_path / "one.pth", "one.pth: has no projector 'dino'"),
        (tmp_path / "nowhere.ply", weights("3dgs"), "nowhere.ply: no such file or folder"),
        (tmp_path / "empty", weights("3dgs"), "empty: holds no scenes"),
    ):
        assert encode(monkeypatch, scene, "--encoder", file, "--out", tmp_path / "o", "--output", "lang") == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("voxels")]
        assert message in lines[-1]
        assert len(lines) == 1
