"""Writers: round trips of every format, columns written into the user's own file, all else byte for byte."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from chorus_common.harmonics import SH_SIZES
from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene, RenderMode, canonical_quats
from chorus_common.scene_io import probe, read_scene, write_npy_folder, write_ply
from chorus_common.scene_io.convert import convert
from chorus_common.scene_io.sog_write import codebook, harmonics_palette, write_sog
from chorus_common.scene_io.source_properties import (
    CLASS,
    CONFIDENCE,
    INSTANCE,
    read_properties,
    write_part,
    write_properties,
)
from chorus_common.scene_io.spz_write import write_spz
from tests.chorus_common.scene_files import (
    inria_rows,
    random_scene,
    write_compressed,
    write_inria,
    write_splat,
)
from tests.chorus_common.scene_files import write_ply as write_table
from tests.chorus_common.scene_files import write_spz as write_spz_slowly
from tests.chorus_common.test_scene_io_foreign import FILES, shapes

ENDINGS = (".ply", ".spz", ".sog", ".glb")


def lit(n: int, degree: int, seed: int = 0) -> GaussianScene:
    """A scene with harmonics of `degree`."""
    rest = np.random.default_rng(seed).normal(size=(n, SH_SIZES[degree], 3)) * 0.2
    return replace(random_scene(n, seed), harmonics=rest.astype(np.float32) if degree else None, name="a")


#: ending -> what may change: positions (m), shape (of the largest entry), colour, opacity, harmonics
STEPS = {
    ".ply": (0.0, 1e-5, 1e-6, 2e-6, 0.0),
    ".spz": (0.5 / 4096 + 1e-6, 8e-2, 4e-3, 0.5 / 255 + 1e-6, 0.067),
    ".sog": (2e-4, 8e-2, 8e-3, 0.5 / 255 + 1e-6, 0.05),
    ".glb": (1e-6, 1e-5, 1e-6, 1e-6, 0.0),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("n", [1, 400])
def test_round_trips(tmp_path: Path, ending: str, degree: int, n: int) -> None:
    truth = lit(n, degree)
    source = write_ply(truth, tmp_path / "in.ply")
    done = convert(source, tmp_path / f"out{ending}")
    assert (done.n_gaussians, done.lost) == (n, ())
    found = read_scene(done.path, harmonics=True).validated()
    mean, shape, color, opacity, rest = STEPS[ending]
    assert np.abs(found.means - truth.means).max() <= mean
    off = np.abs(shapes(found) - shapes(truth)).max((1, 2)) / np.abs(shapes(truth)).max((1, 2))
    assert off.max() <= shape
    assert np.abs(found.colors - truth.colors).max() <= color
    assert np.abs(found.opacities - truth.opacities).max() <= opacity
    if degree:
        assert found.harmonics is not None
        assert truth.harmonics is not None
        assert np.abs(found.harmonics - truth.harmonics).max() <= rest + 1e-6
    else:
        assert found.harmonics is None
    again = convert(source, tmp_path / f"again{ending}")
    assert again.path.read_bytes() == done.path.read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("back", ENDINGS)
def test_from_every_format_to_every_other(tmp_path: Path, ending: str, back: str) -> None:
    first = convert(FILES / "source.ply", tmp_path / f"a{ending}").path
    second = convert(first, tmp_path / f"b{back}").path
    a, b = read_scene(first), read_scene(second)
    np.testing.assert_allclose(b.means, a.means, atol=4e-4)
    np.testing.assert_allclose(b.colors, a.colors, atol=0.012)
    assert np.abs(b.opacities - a.opacities).max() < 0.003


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("mode", list(RenderMode))
def test_the_render_mode_is_kept_where_the_format_can_say_it(tmp_path: Path, ending: str, mode: RenderMode) -> None:
    source = write_ply(replace(random_scene(5), render_mode=mode), tmp_path / "in.ply")
    found = read_scene(convert(source, tmp_path / f"out{ending}").path).render_mode
    blurred = {RenderMode.MIP: RenderMode.ANTIALIASED}
    can = {
        ".ply": mode, ".glb": RenderMode.CLASSIC, ".sog": blurred.get(mode, mode),
        ".spz": RenderMode.CLASSIC if mode is RenderMode.DISCS else blurred.get(mode, mode),
    }  # fmt: skip
    assert found is can[ending]


# ---- decoders written from the formats' descriptions, value by value -------------------------------------------------


def slow_sog(path: Path) -> list[dict[str, object]]:
    """Every Gaussian of a .sog, by the published description."""
    archive = zipfile.ZipFile(path)
    meta = json.loads(archive.read("meta.json"))

    def texel(name: str, i: int) -> tuple[int, ...]:
        image = Image.open(io.BytesIO(archive.read(name))).convert("RGBA")
        return image.getpixel((i % image.width, i // image.width))

    rows = []
    for i in range(meta["count"]):
        low, high = texel("means_l.webp", i), texel("means_u.webp", i)
        mean = []
        for a in range(3):
            t = (low[a] + 256 * high[a]) / 65535
            log = meta["means"]["mins"][a] + t * (meta["means"]["maxs"][a] - meta["means"]["mins"][a])
            mean.append((np.exp(abs(log)) - 1) * (1 if log >= 0 else -1))
        q = texel("quats.webp", i)
        small = [(v / 255 - 0.5) * 2 / 2**0.5 for v in q[:3]]
        quat = small[:]
        quat.insert(q[3] - 252, max(0.0, 1 - sum(v * v for v in small)) ** 0.5)
        scale = [np.exp(meta["scales"]["codebook"][v]) for v in texel("scales.webp", i)[:3]]
        sh0 = texel("sh0.webp", i)
        color = [0.5 + 0.28209479177387814 * meta["sh0"]["codebook"][v] for v in sh0[:3]]
        label = texel("shN_labels.webp", i)
        entry = label[0] + 256 * label[1]
        k = {1: 3, 2: 8, 3: 15}[meta["shN"]["bands"]]
        picture = Image.open(io.BytesIO(archive.read("shN_centroids.webp"))).convert("RGBA")
        rest = [
            [meta["shN"]["codebook"][v] for v in picture.getpixel(((entry % 64) * k + j, entry // 64))[:3]]
            for j in range(k)
        ]
        rows.append({"mean": mean, "quat": quat, "scale": scale, "color": color, "opacity": sh0[3] / 255, "rest": rest})
    return rows


def slow_spz(path: Path) -> list[dict[str, object]]:
    """Every Gaussian of an .spz of version 3, by Niantic's description, in the file's own axes (RUB)."""
    raw = gzip.decompress(path.read_bytes())
    magic, version, n, degree, bits = struct.unpack("<4sIIBB", raw[:14])
    assert (magic, version) == (b"NGSP", 3)
    k = {0: 0, 1: 3, 2: 8, 3: 15}[degree]
    at = 16
    parts = []
    for size in (9, 1, 3, 3, 4, 3 * k):
        parts.append([raw[at + i * size : at + (i + 1) * size] for i in range(n)])
        at += n * size
    rows = []
    for position, alpha, color, scale, rotation, sh in zip(*parts):
        mean = [int.from_bytes(position[3 * a : 3 * a + 3], "little", signed=True) / 2**bits for a in range(3)]
        packed = int.from_bytes(rotation, "little")
        largest, values = packed >> 30, []
        for component in (3, 2, 1, 0):  # the last field is in the lowest bits
            if component != largest:
                field, packed = packed & 1023, packed >> 10
                values.insert(0, (-1 if field & 512 else 1) * (field & 511) / 511 / 2**0.5)
        values.insert(largest, max(0.0, 1 - sum(v * v for v in values)) ** 0.5)
        rows.append(
            {
                "mean": mean, "quat": [values[3], *values[:3]], "scale": [np.exp(v / 16 - 10) for v in scale],
                "color": [0.5 + 0.28209479177387814 * (v / 255 - 0.5) / 0.15 for v in color],
                "opacity": alpha[0] / 255, "rest": [[(v - 128) / 128 for v in sh[3 * j : 3 * j + 3]] for j in range(k)],
            }
        )  # fmt: skip
    return rows


@pytest.mark.parametrize("degree", [1, 3])
def test_sog_against_a_decoder_from_its_description(tmp_path: Path, degree: int) -> None:
    path = write_sog(lit(30, degree), tmp_path / "a.sog")
    scene = read_scene(path, harmonics=True)
    for i, row in enumerate(slow_sog(path)):
        np.testing.assert_allclose(scene.means[i], row["mean"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(scene.quats[i], canonical_quats(np.array([row["quat"]]))[0], atol=1e-6)
        np.testing.assert_allclose(scene.scales[i], row["scale"], rtol=1e-5)
        np.testing.assert_allclose(scene.colors[i], row["color"], atol=1e-6)
        assert scene.opacities[i] == pytest.approx(row["opacity"], abs=1e-6)
        assert scene.harmonics is not None
        np.testing.assert_allclose(scene.harmonics[i], row["rest"], atol=1e-6)


@pytest.mark.parametrize("degree", [0, 2])
def test_spz_against_a_decoder_from_its_description(tmp_path: Path, degree: int) -> None:
    path = write_spz(lit(30, degree), tmp_path / "a.spz")
    scene = read_scene(path, harmonics=True)
    flips = {0: [], 2: [-1, -1, 1, -1, 1, 1, -1, 1]}[degree]  # y and z change sign: y, z, x; xy, yz, zz, xz, xx - yy
    for i, row in enumerate(slow_spz(path)):
        np.testing.assert_allclose(scene.means[i], np.array(row["mean"]) * [1, -1, -1], atol=1e-6)
        quat = canonical_quats(np.array([row["quat"]]) * [1, 1, -1, -1])[0]
        np.testing.assert_allclose(scene.quats[i], quat, atol=1e-5)
        np.testing.assert_allclose(scene.scales[i], row["scale"], rtol=1e-5)
        np.testing.assert_allclose(scene.colors[i], np.clip(row["color"], 0, 1), atol=1e-6)
        assert scene.opacities[i] == pytest.approx(row["opacity"], abs=1e-6)
        if degree:
            assert scene.harmonics is not None
            np.testing.assert_allclose(scene.harmonics[i], np.array(row["rest"]) * np.array(flips)[:, None], atol=1e-6)


def test_glb_against_its_own_bytes(tmp_path: Path) -> None:
    truth = lit(20, 1)
    raw = convert(write_ply(truth, tmp_path / "a.ply"), tmp_path / "a.glb").path.read_bytes()
    magic, version, size, length, kind = struct.unpack("<4sIII4s", raw[:20])
    assert (magic, version, size, kind) == (b"glTF", 2, len(raw), b"JSON")
    document, body = json.loads(raw[20 : 20 + length]), raw[28 + length :]
    (primitive,) = document["meshes"][0]["primitives"]
    assert primitive["mode"] == 0
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"]

    def floats(name: str, width: int) -> list[tuple[float, ...]]:
        accessor = document["accessors"][primitive["attributes"][name]]
        start = document["bufferViews"][accessor["bufferView"]]["byteOffset"]
        return [struct.unpack_from(f"<{width}f", body, start + 4 * width * i) for i in range(accessor["count"])]

    own = "KHR_gaussian_splatting:"
    for i, (position, scale, dc) in enumerate(
        zip(floats("POSITION", 3), floats(f"{own}SCALE", 3), floats(f"{own}SH_DEGREE_0_COEF_0", 3))
    ):
        np.testing.assert_allclose(position, truth.means[i] * [-1, -1, 1], atol=1e-6)  # y up, z to the front
        np.testing.assert_allclose(scale, truth.scales[i], rtol=1e-5)
        np.testing.assert_allclose(np.array(dc) * 0.28209479177387814 + 0.5, truth.colors[i], atol=1e-6)
    opacity = np.array(floats(f"{own}OPACITY", 1))[:, 0]
    np.testing.assert_allclose(opacity, truth.opacities, atol=2e-6)
    x, y, z, w = np.array(floats(f"{own}ROTATION", 4)).T
    # half a turn about z after the Gaussian's own rotation: (0, 0, 0, 1) * (w, x, y, z)
    tw, tx, ty, tz = truth.quats.T
    same = np.abs(x * -ty + y * tx + z * tw + w * -tz)
    np.testing.assert_allclose(same, 1, atol=1e-5)
    # Y_1 is -y, z, -x: the first and the last change sign
    assert truth.harmonics is not None
    for order, sign in enumerate((-1, 1, -1)):
        np.testing.assert_allclose(
            floats(f"{own}SH_DEGREE_1_COEF_{order}", 3), sign * truth.harmonics[:, order], atol=1e-6
        )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_codebooks_are_better_than_even_steps(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 3000))
    seed = data.draw(st.integers(0, 1000))
    spread = data.draw(st.sampled_from(["normal", "long", "few"]))
    rng = np.random.default_rng(seed)
    values = {
        "normal": rng.normal(size=n),
        "long": rng.standard_cauchy(size=n).clip(-1e4, 1e4),
        "few": rng.integers(0, 9, n) * 1.5,
    }[spread].astype(np.float32)
    book, codes = codebook(values)
    assert book.shape == (256,)
    assert (np.diff(book) >= 0).all()
    error = np.abs(book[codes] - values)
    assert (error <= np.abs(book[:, None] - values).min(0) + 1e-6 * np.abs(values).max()).all()  # the nearest entry
    even = np.linspace(values.min(), values.max(), 256)
    plain = np.abs(even[:, None] - values).min(0)
    assert (error.astype(float) ** 2).sum() <= (plain.astype(float) ** 2).sum() * 1.05 + 1e-9


def test_a_palette_of_many_harmonics_is_close() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 24))
    rows = (centres[rng.integers(0, 50, 6_000)] + rng.normal(size=(6_000, 24)) * 0.01).astype(np.float32)
    palette, labels = harmonics_palette(rows)
    assert len(palette) <= 4096
    assert np.abs(palette[labels] - rows).mean() < 0.01
    again, same = harmonics_palette(rows)
    np.testing.assert_array_equal(palette, again)
    np.testing.assert_array_equal(labels, same)


# ---- columns in the user's own file ----------------------------------------------------------------------------------


def predicted(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {
        CLASS: rng.integers(-1, 200, n).astype(np.int32), INSTANCE: rng.integers(-1, 70_000, n).astype(np.int32),
        CONFIDENCE: rng.random(n).astype(np.float32),
    }  # fmt: skip


def trained(path: Path, order: str = "<") -> Path:
    """A file as a training run and a second program leave it: normals, three degrees, an own column, a camera after."""
    rows = inria_rows(random_scene(90))
    rng = np.random.default_rng(2)
    table = [row | {f"f_rest_{i}": float(np.float32(rng.normal())) for i in range(45)} for row in rows]
    table = [row | {"own_id": i, "weight": float(i) / 8} for i, row in enumerate(table)]
    kinds = {name: "ushort" if name == "own_id" else "double" if name == "weight" else "float" for name in table[0]}
    vertex = ("vertex", kinds, [list(row.values()) for row in table])
    before, after = ("origin", {"v": "uchar"}, [[7]]), ("camera", {"fx": "double"}, [[1.5], [2.5]])
    return write_table(path, [before, vertex, after], order=order, comments=("trained by someone", "antialiased 1"))


def plain_table(path: Path) -> tuple[list[str], dict[str, list[bytes]], bytes]:
    """A .ply taken apart without our reader: header lines, bytes of each vertex property, what follows the vertices."""
    raw = path.read_bytes()
    end = raw.index(b"end_header\n") + 11
    lines = raw[:end].decode().splitlines()
    width = {"float": 4, "int": 4, "uint": 4, "ushort": 2, "double": 8, "uchar": 1}
    at, where, names, rest = end, "", [], {}
    counts, sizes = {}, {}
    for line in lines:
        words = line.split()
        if words[0] == "element":
            where = words[1]
            counts[where], sizes[where] = int(words[2]), []
        elif words[0] == "property":
            sizes[where].append((words[2], width[words[1]]))
    for name in counts:
        if name == "vertex":
            break
        at += counts[name] * sum(size for _, size in sizes[name])
    stride = sum(size for _, size in sizes["vertex"])
    offset = 0
    for name, size in sizes["vertex"]:
        names.append(name)
        rest[name] = [raw[at + i * stride + offset : at + i * stride + offset + size] for i in range(counts["vertex"])]
        offset += size
    return lines, rest, raw[at + counts["vertex"] * stride :]


@pytest.mark.parametrize("order", ["<", ">"])
def test_columns_in_a_trained_ply(tmp_path: Path, order: str) -> None:
    source, added = trained(tmp_path / "room.ply", order), predicted(90)
    out = write_properties(source, added, tmp_path / "out")
    assert out == tmp_path / "out" / "room.ply"
    lines, old, tail = plain_table(source)
    new_lines, new, new_tail = plain_table(out)
    assert tail == new_tail
    assert [line for line in new_lines if "predicted_" not in line] == lines
    for name, values in old.items():
        assert new[name] == values, name
    for name, values in added.items():
        kind = np.dtype(order + ("f4" if name == CONFIDENCE else "i4"))
        np.testing.assert_array_equal([np.frombuffer(v, kind)[0] for v in new[name]], values)
    found = read_scene(out, harmonics=True)
    assert found.labels is None
    assert found.instances is None
    before = read_scene(source, harmonics=True)
    np.testing.assert_array_equal(found.harmonics, before.harmonics)
    np.testing.assert_array_equal(found.colors, before.colors)
    assert found.render_mode is RenderMode.ANTIALIASED
    # written again, the columns are replaced
    twice = write_properties(out, predicted(90), tmp_path / "twice")
    assert twice.read_bytes() == out.read_bytes()


def test_columns_in_an_ascii_ply(tmp_path: Path) -> None:
    source, added = trained(tmp_path / "room.ply", "a"), predicted(90)
    out = write_properties(source, added, tmp_path / "out")
    for name, values in added.items():
        np.testing.assert_allclose(read_properties(out)[name], values, rtol=1e-6)
    body = source.read_text().split("end_header\n")[1].splitlines()
    written = out.read_text().split("end_header\n")[1].splitlines()
    assert len(written) == len(body)
    assert all(new.startswith(old.strip()) for new, old in zip(written, body))


@pytest.mark.parametrize(
    "name",
    ["source.ply", "source.compressed.ply", "source.spz", "source_v3.spz", "source.sog", "folder", "source.glb",
     "level1.ksplat", "lod", "a.splat", "npy"],
)  # fmt: skip
def test_columns_in_every_format(tmp_path: Path, name: str) -> None:
    source = FILES / name
    if name == "a.splat":
        source = write_splat(tmp_path / name, random_scene(300))
    if name == "npy":
        source = write_npy_folder(random_scene(300), tmp_path / name)
    added = predicted(300)
    out = write_properties(source, added, tmp_path / "out")
    room = {"level1.ksplat": ".ply", "lod": ".ply", "a.splat": ".ply"}
    assert out.name == (Path(name).stem + room[name] if name in room else name)
    before, after = read_scene(source, harmonics=True), read_scene(out, harmonics=True)
    for key in ("means", "scales", "opacities", "colors", "harmonics"):
        a, b = getattr(before, key), getattr(after, key)
        assert (a is None) == (b is None), key
        if a is not None:
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-6 if name in room else 0, err_msg=key)
    assert after.labels is None
    found = read_properties(out)
    assert set(found) == set(added)
    for key, values in added.items():
        np.testing.assert_array_equal(found[key], values, err_msg=key)
        assert found[key].dtype.kind == values.dtype.kind
    if name == "source.sog":
        old, new = zipfile.ZipFile(source), zipfile.ZipFile(out)
        assert all(new.read(n) == old.read(n) for n in old.namelist() if n != "meta.json")
        meta, was = json.loads(new.read("meta.json")), json.loads(old.read("meta.json"))
        assert {key: meta[key] for key in was} == was
    if name == "source.spz":
        raw, was = out.read_bytes(), source.read_bytes()
        start, end = (struct.unpack_from("<I", data, 16)[0] for data in (was, raw))
        assert raw[end:] == was[start:]
    if name == "source_v3.spz":
        plain, was = gzip.decompress(out.read_bytes()), gzip.decompress(source.read_bytes())
        assert plain[16 : len(was)] == was[16:]
    if name == "source.glb":
        assert source.read_bytes()[-2000:-8] in out.read_bytes()


def test_spz_columns_stand_beside_other_records(tmp_path: Path) -> None:
    axes = struct.pack("<III", 0xADBE0003, 4, 11)
    for version in (2, 3, 4):
        source = write_spz_slowly(tmp_path / f"v{version}.spz", random_scene(20), version, extension=axes)
        out = write_properties(source, predicted(20), tmp_path / "out")
        np.testing.assert_array_equal(read_scene(out).means, read_scene(source).means)
        again = write_properties(out, predicted(20), tmp_path / "again")
        assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("name", ["label", "instance", "semantic", "a b", "ümlaut"])
def test_names_that_would_be_read_as_truth_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SceneError, match="a column cannot be called"):
        write_properties(FILES / "source.ply", {name: np.zeros(300, np.int32)}, tmp_path)
    with pytest.raises(SceneError, match="has shape"):
        write_properties(FILES / "source.ply", {CLASS: np.zeros(299, np.int32)}, tmp_path)


@pytest.mark.parametrize("order", ["<", ">", "a"])
def test_a_part_of_a_ply_keeps_every_property(tmp_path: Path, order: str) -> None:
    source = trained(tmp_path / "room.ply", order)
    rows = np.array([80, 3, 41])
    out = write_part(source, rows, tmp_path / "chair.ply", {CONFIDENCE: np.array([0.5, 0.25, 1.0], np.float32)})
    assert read_properties(out)["source_row"].tolist() == rows.tolist()
    whole, part = read_scene(source, harmonics=True), read_scene(out, harmonics=True)
    for key in ("means", "quats", "scales", "opacities", "colors", "harmonics"):
        np.testing.assert_array_equal(getattr(part, key), getattr(whole, key)[rows], err_msg=key)
    if order != "a":
        old, new = plain_table(source)[1], plain_table(out)[1]
        assert all(new[name] == [values[row] for row in rows] for name, values in old.items())


@pytest.mark.parametrize("name", ["source.compressed.ply", "source.sog", "source.glb", "level0.ksplat"])
def test_a_part_of_other_formats_is_a_ply_with_harmonics(tmp_path: Path, name: str) -> None:
    rows = np.array([7, 250])
    out = write_part(FILES / name, rows, tmp_path / "chair.ply")
    whole, part = read_scene(FILES / name, harmonics=True), read_scene(out, harmonics=True)
    np.testing.assert_array_equal(part.means, whole.means[rows])
    np.testing.assert_allclose(part.harmonics, whole.harmonics[rows], atol=1e-6)
    assert read_properties(out)["source_row"].tolist() == [7, 250]


def test_columns_survive_conversion(tmp_path: Path) -> None:
    source = write_properties(FILES / "source.ply", predicted(300), tmp_path / "a")
    for ending in ENDINGS:
        out = convert(source, tmp_path / f"b{ending}").path
        for name, values in predicted(300).items():
            np.testing.assert_array_equal(read_properties(out)[name], values, err_msg=f"{ending} {name}")
    assert not list(tmp_path.glob(".columns*"))


def test_own_properties_survive_where_there_is_room(tmp_path: Path) -> None:
    source = trained(tmp_path / "room.ply")
    assert convert(source, tmp_path / "b.ply").path.read_bytes() == source.read_bytes()
    done = convert(source, tmp_path / "b.glb")
    assert done.lost == ("own_id", "weight")
    packed = write_compressed(tmp_path / "p.ply", random_scene(9), color_ranges=True)
    with_id = write_properties(packed, {"own_id": np.arange(9)}, tmp_path / "packed")
    plain = convert(with_id, tmp_path / "plain.ply").path
    assert plain_table(plain)[1]["own_id"] == [i.to_bytes(4, "little") for i in range(9)]


def test_outliers_are_kept_or_left_out(tmp_path: Path) -> None:
    rows = inria_rows(random_scene(12))
    rows[5]["x"] = 5.3e8
    rows = [row | {"own": float(i)} for i, row in enumerate(rows)]
    vertex = ("vertex", dict.fromkeys(rows[0], "float"), [list(row.values()) for row in rows])
    source = write_table(tmp_path / "far.ply", [vertex])
    assert convert(source, tmp_path / "all.ply").n_gaussians == 12
    assert convert(source, tmp_path / "fewer.ply", keep_outliers=False).n_gaussians == 11
    own = plain_table(tmp_path / "fewer.ply")[1]["own"]
    assert [struct.unpack("<f", v)[0] for v in own] == [i for i in range(12) if i != 5]
    with pytest.raises(SceneError, match=r"more than .spz can hold; leave the outliers out first"):
        convert(source, tmp_path / "all.spz")


def test_what_cannot_be_converted_gets_one_line(tmp_path: Path) -> None:
    source = write_inria(tmp_path / "a.ply", random_scene(3))
    with pytest.raises(SceneError, match=r"scenes are written as \.ply, \.spz, \.sog, \.glb"):
        convert(source, tmp_path / "a.usdz")
    with pytest.raises(SceneError, match="is the source itself"):
        convert(source, source)
    assert probe(source).n_gaussians == 3
