"""Every format, written by a plain writer and read back within its quantiser's step."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chorus_common.harmonics import sh_basis
from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene, RenderMode, quats_to_rotations
from chorus_common.scene_io import FORMATS, probe, read_scene, write_npy_folder, write_scene
from chorus_common.scene_io.compressed_ply import largest_restored
from tests.chorus_common.scene_files import (
    inria_rows,
    random_scene,
    spz_harmonics,
    write_compressed,
    write_inria,
    write_ply,
    write_splat,
    write_spz,
)


def angles(a: GaussianScene, b: GaussianScene) -> np.ndarray:
    """Degrees between the rotations of two scenes, [N]."""
    dot = np.abs((a.quats.astype(np.float64) * b.quats.astype(np.float64)).sum(1))
    return np.degrees(2 * np.arccos(np.minimum(dot, 1)))


def assert_close(
    found: GaussianScene,
    truth: GaussianScene,
    *,
    mean: float,
    log_scale: float,
    color: float,
    opacity: float,
    degrees: float,
) -> None:
    assert len(found) == len(truth)
    found.validated()
    assert np.abs(found.means - truth.means).max() <= mean
    assert np.abs(np.log(found.scales) - np.log(truth.scales)).max() <= log_scale
    assert np.abs(found.colors - truth.colors).max() <= color
    assert np.abs(found.opacities - truth.opacities).max() <= opacity
    assert angles(found, truth).max() <= degrees
    assert (found.quats[:, 0] >= 0).all()
    assert (found.source_ids == np.arange(len(truth))).all()


EXACT = {"mean": 0.0, "log_scale": 1e-5, "color": 1e-6, "opacity": 1e-6, "degrees": 0.1}


@pytest.mark.parametrize("n_rest", [0, 9, 24, 45])
@pytest.mark.parametrize("normals", [False, True])
def test_inria_with_any_number_of_harmonics(tmp_path: Path, n_rest: int, normals: bool) -> None:
    truth = random_scene(300)
    path = write_inria(tmp_path / "a.ply", truth, n_rest=n_rest, normals=normals)
    found = read_scene(path)
    assert_close(found, truth, **EXACT)
    assert found.normals is None  # a training run's normals are zeros
    assert found.name == "a"
    assert probe(path).format == "inria-ply"
    assert probe(path).n_gaussians == 300


@pytest.mark.parametrize(
    "options",
    [
        {"order": ">"},
        {"order": "a"},
        {"newline": "\r\n"},
        {"newline": "\r\n", "order": "a"},
        {"newline": "\r"},
        {"comments": ("made by a viewer", "", "element vertex 7")},
    ],
    ids=str,
)
def test_inria_in_every_encoding(tmp_path: Path, options: dict[str, object]) -> None:
    truth = random_scene(64)
    assert_close(read_scene(write_inria(tmp_path / "a.ply", truth, n_rest=3, **options)), truth, **EXACT)


@pytest.mark.parametrize("order", ["<", ">", "a"])
def test_extra_elements_do_not_shift_the_rows(tmp_path: Path, order: str) -> None:
    truth = random_scene(20)
    rows = inria_rows(truth)
    vertex = ("vertex", dict.fromkeys(rows[0], "float"), [list(row.values()) for row in rows])
    before = ("camera", {"fx": "double", "id": "uchar"}, [[1.5, 3], [2.5, 4], [0.5, 5]])
    after = ("intrinsic", {"v": "float"}, [[9.0]] * 9)
    assert_close(read_scene(write_ply(tmp_path / "a.ply", [before, vertex, after], order=order)), truth, **EXACT)


def test_double_properties_and_shuffled_columns(tmp_path: Path) -> None:
    truth = random_scene(20)
    rows = inria_rows(truth)
    names = sorted(rows[0], reverse=True)
    vertex = ("vertex", dict.fromkeys(names, "double"), [[row[name] for name in names] for row in rows])
    assert_close(read_scene(write_ply(tmp_path / "a.ply", [vertex])), truth, **EXACT)


def test_flat_discs_get_a_thickness(tmp_path: Path) -> None:
    rows = inria_rows(random_scene(20))
    names = [name for name in rows[0] if name != "scale_2"]
    vertex = ("vertex", dict.fromkeys(names, "float"), [[row[name] for name in names] for row in rows])
    scene = read_scene(write_ply(tmp_path / "a.ply", [vertex], comments=("SplatRenderMode: mip",))).validated()
    np.testing.assert_allclose(scene.scales[:, 2], scene.scales[:, :2].min(1) * 1e-3, rtol=1e-5)
    assert scene.render_mode is RenderMode.DISCS


def test_extreme_but_real_values(tmp_path: Path) -> None:
    rows = inria_rows(random_scene(4))
    rows[0] |= {"opacity": 1e4, "scale_0": -200.0}
    rows[1] |= {"opacity": -1e4, "f_dc_0": 50.0, "f_dc_1": -50.0}
    rows[2] |= dict.fromkeys(("rot_0", "rot_1", "rot_2", "rot_3"), 0.0)
    vertex = ("vertex", dict.fromkeys(rows[0], "float"), [list(row.values()) for row in rows])
    scene = read_scene(write_ply(tmp_path / "a.ply", [vertex])).validated()
    assert scene.opacities[0] == 1
    assert scene.opacities[1] < 1e-30
    assert scene.scales[0, 0] == pytest.approx(np.exp(-20))
    assert scene.colors[1].tolist()[:2] == [1, 0]
    assert scene.quats[2].tolist() == [1, 0, 0, 0]


def ply_of(path: Path, rows: list[dict[str, float]], types: dict[str, str] | None = None, **options: object) -> Path:
    """A .ply of named rows; properties are floats unless `types` says otherwise."""
    kinds = {name: (types or {}).get(name, "float") for name in rows[0]}
    return write_ply(path, [("vertex", kinds, [list(row.values()) for row in rows])], **options)  # type: ignore[arg-type]


def test_infinite_logits_and_log_scales_are_bytes_0_and_255(tmp_path: Path) -> None:
    rows = inria_rows(random_scene(6))
    rows[0]["opacity"], rows[1]["opacity"], rows[2]["scale_1"] = float("inf"), float("-inf"), float("-inf")
    scene = read_scene(ply_of(tmp_path / "a.ply", rows)).validated()
    assert scene.opacities[0] == 1
    assert scene.opacities[1] == 0
    assert scene.scales[2, 1] == pytest.approx(np.exp(-20))


@pytest.mark.parametrize("order", ["<", ">", "a"])
@pytest.mark.parametrize(
    ("names", "kind", "top"),
    [
        (("red", "green", "blue"), "uchar", 255),
        (("r", "g", "b"), "ushort", 65535),
        (("red", "green", "blue"), "float", 1),
    ],
)
def test_gaussians_with_plain_colours(tmp_path: Path, order: str, names: tuple[str, ...], kind: str, top: int) -> None:
    truth = random_scene(40)
    rows = inria_rows(truth)
    for row, color in zip(rows, truth.colors.tolist()):
        for channel, name in enumerate(names):
            del row[f"f_dc_{channel}"]
            row[name] = color[channel] if top == 1 else round(color[channel] * top)
    path = ply_of(tmp_path / "a.ply", rows, dict.fromkeys(names, kind), order=order)
    assert probe(path).format == "inria-ply"
    np.testing.assert_allclose(read_scene(path).colors, truth.colors, atol=0.51 / top if top > 1 else 1e-6)


def test_harmonics_win_over_the_colours_that_a_viewer_added(tmp_path: Path) -> None:
    truth = random_scene(9)
    rows = [row | {"red": 1, "green": 2, "blue": 3} for row in inria_rows(truth)]
    found = read_scene(ply_of(tmp_path / "a.ply", rows, dict.fromkeys(("red", "green", "blue"), "uchar")))
    np.testing.assert_allclose(found.colors, truth.colors, atol=1e-6)


@pytest.mark.parametrize("gone", ["f_dc_1", "rot_2", "scale_1", "y"])
def test_probe_and_reader_refuse_the_same_files(tmp_path: Path, gone: str) -> None:
    rows = inria_rows(random_scene(5))
    for row in rows:
        del row[gone]
    path = ply_of(tmp_path / "a.ply", rows)
    with pytest.raises(SceneError, match=r"a.ply: vertices (lack|have)") as read:
        read_scene(path)
    with pytest.raises(SceneError) as probed:
        probe(path)
    assert str(read.value) == str(probed.value)


def test_mip_splattings_filter_becomes_part_of_scales_and_opacity(tmp_path: Path) -> None:
    rows = inria_rows(random_scene(3))
    rows[0] |= {"scale_0": math.log(0.005), "scale_1": math.log(0.01), "scale_2": math.log(0.02), "opacity": 2.0}
    rows = [row | {"filter_3D": size} for row, size in zip(rows, (0.03, 0.0, 0.2))]
    scene = read_scene(ply_of(tmp_path / "a.ply", rows)).validated()
    assert scene.render_mode is RenderMode.MIP
    for i, row in enumerate(rows):
        old = [math.exp(row[f"scale_{a}"]) for a in range(3)]
        new = [math.sqrt(s * s + row["filter_3D"] ** 2) for s in old]
        opacity = 1 / (1 + math.exp(-row["opacity"])) * math.prod(old) / math.prod(new)
        np.testing.assert_allclose(scene.scales[i], new, rtol=1e-5)
        assert scene.opacities[i] == pytest.approx(opacity, rel=1e-5)


def test_balls_with_one_scale_and_no_rotation(tmp_path: Path) -> None:
    truth = random_scene(12)
    rows = inria_rows(truth)
    for row in rows:
        for name in ("scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"):
            del row[name]
    found = read_scene(ply_of(tmp_path / "a.ply", rows)).validated()
    np.testing.assert_allclose(found.scales, np.repeat(truth.scales[:, :1], 3, axis=1), rtol=1e-5)
    assert (found.quats == [1, 0, 0, 0]).all()


def test_hundreds_of_semantic_columns(tmp_path: Path) -> None:
    truth = random_scene(7)
    rows = [row | {f"semantic_{i}": 0.5 for i in range(512)} for row in inria_rows(truth)]
    assert_close(read_scene(ply_of(tmp_path / "a.ply", rows)), truth, **EXACT)


@pytest.mark.parametrize(
    ("comments", "mode"),
    [
        ((), RenderMode.CLASSIC),
        (("SplatRenderMode: mip",), RenderMode.MIP),
        (("SPLATRENDERMODE:2dgs",), RenderMode.DISCS),
        (("antialiased 1",), RenderMode.ANTIALIASED),
        (("antialiased",), RenderMode.ANTIALIASED),
        (("antialiased 1", "SplatRenderMode: default"), RenderMode.CLASSIC),
        (("antialiased 0", "made by hand"), RenderMode.CLASSIC),
        (("SplatRenderMode: banana",), RenderMode.CLASSIC),
    ],
)
def test_comments_tell_the_render_mode(tmp_path: Path, comments: tuple[str, ...], mode: RenderMode) -> None:
    scene = random_scene(5)
    plain = read_scene(write_inria(tmp_path / "a.ply", scene, comments=comments))
    assert plain.render_mode is mode
    assert read_scene(write_scene(plain, tmp_path / "again.ply")).render_mode is mode
    packed = write_compressed(tmp_path / "b.ply", scene, color_ranges=True, comments=comments)
    assert read_scene(packed).render_mode is mode


@pytest.mark.parametrize(("n_rest", "k"), [(0, None), (9, 3), (24, 8), (45, 15), (72, 24)])
def test_harmonics_are_read_where_they_are_asked_for(tmp_path: Path, n_rest: int, k: int | None) -> None:
    rows = inria_rows(random_scene(6))
    rng = np.random.default_rng(0)
    rows = [row | {f"f_rest_{i}": float(np.float32(rng.normal())) for i in range(n_rest)} for row in rows]
    path = ply_of(tmp_path / "a.ply", rows)
    assert read_scene(path).harmonics is None
    scene = read_scene(path, harmonics=True)
    if k is None:
        assert scene.harmonics is None
        return
    assert scene.harmonics is not None
    for channel in range(3):
        for j in range(k):
            np.testing.assert_array_equal(
                scene.harmonics[:, j, channel], [np.float32(row[f"f_rest_{channel * k + j}"]) for row in rows]
            )
    again = read_scene(write_scene(scene, tmp_path / "b.ply"), harmonics=True)
    np.testing.assert_array_equal(again.harmonics, scene.harmonics)
    np.testing.assert_array_equal(scene.select(np.array([4, 1])).harmonics, scene.harmonics[[4, 1]])


@pytest.mark.parametrize("color_ranges", [False, True])
@pytest.mark.parametrize("sh", [False, True])
@pytest.mark.parametrize("n", [1, 256, 600])
def test_compressed_ply(tmp_path: Path, color_ranges: bool, sh: bool, n: int) -> None:
    truth = random_scene(n)
    path = write_compressed(tmp_path / "a.compressed.ply", truth, color_ranges=color_ranges, sh=sh)
    found = read_scene(path)
    # half a step of 6 m in 10 bits, of 5 nats in 10 bits, of 1 in 8 bits; a rotation step is sqrt(2) / 1023
    assert_close(
        found,
        truth,
        mean=6 / 1023 / 2 + 1e-6,
        log_scale=5 / 1023 / 2 + 1e-5,
        color=0.5 / 255 + 1e-6,
        opacity=0.5 / 255 + 1e-6,
        degrees=0.3,
    )
    assert found.name == "a"
    assert probe(path).format == "compressed-ply"


def test_splat(tmp_path: Path) -> None:
    truth = random_scene(200)
    found = read_scene(write_splat(tmp_path / "a.splat", truth))
    assert_close(found, truth, mean=0, log_scale=1e-5, color=0.5 / 255 + 1e-6, opacity=0.5 / 255 + 1e-6, degrees=1.2)


@pytest.mark.parametrize(("version", "degrees"), [(1, 3.0), (2, 3.0), (3, 0.3), (4, 0.3)])
@pytest.mark.parametrize("degree", [0, 3])
def test_spz(tmp_path: Path, version: int, degrees: float, degree: int) -> None:
    truth = random_scene(200)
    if version < 3:
        # w follows from x, y, z: where it is near 0 its error is the root of theirs, so keep away from there
        truth = truth.select(truth.quats[:, 0] > 0.4)
    path = write_spz(tmp_path / "a.spz", truth, version, degree=degree)
    found = read_scene(path)
    mean = 2**-9 * 1.01 if version == 1 else 0.5 / 4096 + 1e-6
    step = SPZ_COLOR_STEP
    assert_close(
        found,
        truth,
        mean=mean,
        log_scale=1 / 32 + 1e-5,
        color=step / 2 + 1e-5,
        opacity=0.5 / 255 + 1e-6,
        degrees=degrees,
    )
    assert probe(path).n_gaussians == len(truth)


#: colours are stored as 0.15 * f_dc in 8 bits
SPZ_COLOR_STEP = 0.28209479177387814 / 0.15 / 255


#: number in the record -> where its axes point, in .ply's right, down, forward
DECLARED = {
    1: "LDB", 2: "RDB", 3: "LUB", 4: "RUB", 5: "LDF", 6: "RDF", 7: "LUF", 8: "RUF", 9: "LBD", 10: "RBD", 11: "LBU",
    12: "RBU", 13: "LFD", 14: "RFD", 15: "LFU", 16: "RFU",
}  # fmt: skip


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("number", [0, *DECLARED])
@pytest.mark.parametrize("degree", [0, 2])
def test_spz_declared_axes(tmp_path: Path, version: int, number: int, degree: int) -> None:
    truth = random_scene(20)
    if version < 3:
        truth = truth.select(truth.quats[:, 0] > 0.4)
    record = struct.pack("<II5s", 0x12340001, 5, b"other") + struct.pack("<III", 0xADBE0003, 4, number)
    scene = read_scene(write_spz(tmp_path / "a.spz", truth, version, degree=degree, extension=record))
    plain = read_scene(write_spz(tmp_path / "b.spz", truth, version, degree=degree))
    stored = plain.means * [1, -1, -1]  # as the file holds them
    way = {"R": (0, 1), "L": (0, -1), "D": (1, 1), "U": (1, -1), "F": (2, 1), "B": (2, -1)}
    turn = np.zeros((3, 3))
    for column, letter in enumerate(DECLARED.get(number, "RUB")):
        row, sign = way[letter]
        turn[row, column] = sign
    np.testing.assert_allclose(scene.means, stored @ turn.T, atol=1e-6)

    def covariances(a: GaussianScene) -> np.ndarray:
        half = quats_to_rotations(a.quats.astype(np.float64)) * a.scales[:, None, :]
        return half @ half.transpose(0, 2, 1)

    flip = np.diag([1.0, -1.0, -1.0])
    np.testing.assert_allclose(covariances(scene), turn @ flip @ covariances(plain) @ flip @ turn.T, atol=1e-6)


def test_spz_v3_with_the_trailer_of_another_program(tmp_path: Path) -> None:
    truth = replace(random_scene(1), means=np.array([[1, -2, -3]], np.float32))  # stored as (1, 2, 3)
    path = write_spz(tmp_path / "a.spz", truth, 3, extension=struct.pack("<III", 0xADBE0003, 4, 6))
    assert read_scene(path).means.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize(
    ("record", "message"),
    [
        (struct.pack("<III", 0xADBE0003, 4, 17), "axes number 17"),
        (struct.pack("<IIQ", 0xADBE0003, 8, 4), "axes number 17"),
        (struct.pack("<III", 0xADBE0003, 40, 4), "declares 40 bytes, 4 are there"),
    ],
)
def test_damaged_spz_records(tmp_path: Path, version: int, record: bytes, message: str) -> None:
    path = write_spz(tmp_path / "a.spz", random_scene(3), version, extension=record)
    with pytest.raises(SceneError, match=rf"a.spz: .*{message}"):
        read_scene(path)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_spz_flag_of_antialiasing(tmp_path: Path, version: int) -> None:
    for flags, mode in ((0, RenderMode.CLASSIC), (1, RenderMode.ANTIALIASED)):
        path = write_spz(tmp_path / "a.spz", random_scene(3), version, flags=flags)
        assert read_scene(path).render_mode is mode


@pytest.mark.parametrize("version", [2, 4])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_spz_harmonics_look_the_same_from_everywhere(tmp_path: Path, version: int, degree: int) -> None:
    path = write_spz(tmp_path / "a.spz", random_scene(4), version, degree=degree, sh_seed=5)
    scene = read_scene(path, harmonics=True)
    stored = spz_harmonics(4, degree, 5)  # [N, K, 3] bytes
    assert scene.harmonics is not None
    assert scene.harmonics.shape == stored.shape
    directions = np.random.default_rng(1).normal(size=(20, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    seen = sh_basis(directions, degree) @ scene.harmonics.astype(np.float64)
    wanted = sh_basis(directions * [1, -1, -1], degree) @ ((stored.astype(np.float64) - 128) / 128)
    np.testing.assert_allclose(seen, wanted, atol=1e-6)


def test_spz_extension_records_are_skipped(tmp_path: Path) -> None:
    truth = random_scene(30)
    a = read_scene(write_spz(tmp_path / "a.spz", truth, 4))
    b = read_scene(write_spz(tmp_path / "b.spz", truth, 4, extension=b"\x01\x00\x00\x00\x04\x00\x00\x00abcd"))
    assert np.array_equal(a.means, b.means)
    assert np.array_equal(a.quats, b.quats)


def test_spz_and_compressed_ply_of_one_scene_agree(tmp_path: Path) -> None:
    truth = random_scene(300)
    a = read_scene(write_spz(tmp_path / "a.spz", truth, 4))
    b = read_scene(write_compressed(tmp_path / "b.ply", truth, color_ranges=True))
    assert np.abs(a.means - b.means).max() < 0.004
    assert angles(a, b).max() < 0.5


def test_largest_restored_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    q = rng.normal(size=(50, 4))
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    big = np.abs(q).argmax(1)
    q *= np.sign(q[np.arange(50), big])[:, None]
    small = np.stack([np.delete(row, k) for row, k in zip(q, big)]).astype(np.float32)
    np.testing.assert_allclose(largest_restored(small, big), q, atol=1e-6)


def labelled(n: int) -> GaussianScene:
    rng = np.random.default_rng(1)
    scene = random_scene(n)
    normals = rng.normal(size=(n, 3))
    return replace(
        scene,
        colors=np.rint(scene.colors * 255).astype(np.float32) / np.float32(255),
        normals=(normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32),
        labels=rng.integers(-1, 20, n).astype(np.int32),
        instances=rng.integers(-1, 40000, n).astype(np.int32),
        parts=rng.integers(-1, 9, n).astype(np.int32),
    )


def test_npy_folder_round_trip_is_exact(tmp_path: Path) -> None:
    truth = labelled(500)
    folder = write_scene(truth, tmp_path / "room")
    found = read_scene(folder)
    for key in ("means", "quats", "scales", "opacities", "colors", "normals", "labels", "instances", "parts"):
        np.testing.assert_allclose(
            getattr(found, key), getattr(truth, key), atol=1e-6 if key == "quats" else 0, err_msg=key
        )
        assert not isinstance(getattr(found, key), np.memmap), key  # the file may be written anew
    assert np.load(folder / "segment.npy").dtype == np.int16
    assert np.load(folder / "instance.npy").dtype == np.int32  # 40000 does not fit int16
    assert np.load(folder / "color.npy").dtype == np.uint8
    assert probe(folder).format == "npy-folder"


def test_float_colours_and_zero_normals_of_a_folder(tmp_path: Path) -> None:
    truth = labelled(50)
    assert truth.normals is not None
    folder = write_scene(truth, tmp_path / "room")
    np.save(folder / "color.npy", np.load(folder / "color.npy").astype(np.float32))  # 0 to 255, as floats
    np.save(folder / "normal.npy", 3 * truth.normals)
    found = read_scene(folder)
    assert found.normals is not None
    np.testing.assert_array_equal(found.colors, truth.colors)
    np.testing.assert_allclose(found.normals, truth.normals, atol=1e-6)
    np.save(folder / "normal.npy", np.zeros_like(truth.normals))
    assert read_scene(folder).normals is None
    np.save(folder / "color.npy", np.linspace(-0.1, 1.2, 150, dtype=np.float32).reshape(50, 3))  # harmonics overshoot
    np.testing.assert_allclose(
        read_scene(folder).colors, np.clip(np.linspace(-0.1, 1.2, 150), 0, 1).reshape(50, 3), atol=1e-6
    )
    np.save(folder / "color.npy", np.full((50, 3), 300.0, np.float32))
    with pytest.raises(SceneError, match=r"color.npy: colours run from 300 to 300"):
        read_scene(folder)


def test_writing_a_folder_twice_gives_the_same_bytes_and_leaves_nothing_stale(tmp_path: Path) -> None:
    folder = write_npy_folder(labelled(50), tmp_path / "a")
    (folder / "transforms.json").write_text("{}")
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    write_npy_folder(labelled(50), folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == first
    write_npy_folder(random_scene(40), folder)
    assert {file.stem for file in folder.iterdir()} == {"coord", "color", "opacity", "scale", "quat", "transforms"}
    assert read_scene(folder).labels is None


def test_ply_round_trip_keeps_ids(tmp_path: Path) -> None:
    truth = labelled(200)
    found = read_scene(write_scene(truth, tmp_path / "a.ply"))
    assert_close(found, truth, **EXACT)
    for key in ("labels", "instances", "parts"):
        assert np.array_equal(getattr(found, key), getattr(truth, key))
    assert truth.normals is not None
    np.testing.assert_allclose(found.normals, truth.normals, atol=1e-6)


def test_ply_writer_survives_opacities_of_zero_and_one(tmp_path: Path) -> None:
    truth = replace(random_scene(3), opacities=np.array([0, 0.5, 1], np.float32))
    np.testing.assert_allclose(read_scene(write_scene(truth, tmp_path / "a.ply")).opacities, [0, 0.5, 1], atol=2e-6)


def test_segment_file_follows_the_label_space(tmp_path: Path) -> None:
    folder = write_npy_folder(random_scene(5), tmp_path / "a")
    np.save(folder / "segment20.npy", np.arange(5, dtype=np.int16))
    np.save(folder / "segment200.npy", np.arange(5, dtype=np.int16) + 100)
    np.save(folder / "instance.npy", np.tile(np.arange(5, dtype=np.int16)[:, None], 3) * 2)  # ScanNet++: (N, k)
    scene = read_scene(folder)
    assert scene.label_space == "scannet20"
    assert scene.labels is not None
    assert scene.instances is not None
    assert scene.labels.tolist() == [0, 1, 2, 3, 4]
    assert scene.instances.tolist() == [0, 2, 4, 6, 8]
    wide = read_scene(folder, label_space="scannet200")
    assert wide.labels is not None
    assert wide.labels[0] == 100
    assert read_scene(folder, label_space="s3dis13").labels is None


def test_formats_are_what_probes_say(tmp_path: Path) -> None:
    scene = random_scene(4)
    np.save(tmp_path / "t.npy", np.zeros((4, 6)))
    np.savez(tmp_path / "t.npz", xyz=np.zeros((4, 3)), rgb=np.zeros((4, 3), np.uint8))
    xyzrgb = dict.fromkeys("xyz", "float") | dict.fromkeys(("red", "green", "blue"), "uchar")
    paths = [
        write_inria(tmp_path / "a.ply", scene), write_compressed(tmp_path / "b.ply", scene, color_ranges=False),
        write_splat(tmp_path / "c.splat", scene), write_spz(tmp_path / "d.spz", scene, 3),
        write_npy_folder(scene, tmp_path / "e"),
        tmp_path / "t.npy", tmp_path / "t.npz",
        write_ply(tmp_path / "f.ply", [("vertex", xyzrgb, [[0, 0, 0, 1, 2, 3]] * 4)]),
    ]  # fmt: skip
    elsewhere = {"ksplat", "sog", "sog-lod", "gltf"}  # test_scene_io_foreign
    assert sorted(probe(path).format for path in paths) == sorted(set(FORMATS) - elsewhere)
    assert {probe(path).n_gaussians for path in paths} == {4}


@pytest.mark.parametrize("name", ["a.ply", "b.spz", "c.splat"])
def test_count_limit(tmp_path: Path, name: str) -> None:
    scene = random_scene(11)
    path = tmp_path / name
    {"a": write_inria, "c": write_splat}.get(name[0], lambda p, s: write_spz(p, s, 4))(path, scene)  # type: ignore[operator]
    assert len(read_scene(path, max_gaussians=11)) == 11
    with pytest.raises(SceneError, match=rf"{name}: declares 11 .*limit of 10"):
        read_scene(path, max_gaussians=10)
