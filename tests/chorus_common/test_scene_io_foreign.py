"""Files that other programs wrote (tests/data/formats/README.md) read to the scene that they were made from."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from chorus_common.harmonics import sh_basis
from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene, RenderMode, quats_to_rotations
from chorus_common.scene_io import probe, read_scene
from tests.chorus_common.scene_files import write_spz

FILES = Path(__file__).parents[1] / "data" / "formats"


@pytest.fixture(scope="module")
def source() -> GaussianScene:
    return read_scene(FILES / "source.ply", harmonics=True)


def shapes(scene: GaussianScene) -> np.ndarray:
    """Covariances [N, 3, 3]: what quaternions and scales stand for, whatever their signs and order."""
    half = quats_to_rotations(scene.quats.astype(np.float64)) * scene.scales[:, None, :]
    return half @ half.transpose(0, 2, 1)


def looks(scene: GaussianScene) -> np.ndarray:
    """View-dependent colour [directions, N, 3]."""
    assert scene.harmonics is not None
    directions = np.random.default_rng(3).normal(size=(12, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.einsum("dk,nkc->dnc", sh_basis(directions, 2), scene.harmonics)


@pytest.mark.parametrize(
    ("name", "kind", "mean", "shape", "color", "opacity", "harmonics"),
    [
        ("level0.ksplat", "ksplat", 1e-6, 1e-5, 1 / 255, 1 / 255, 1e-6),
        ("level1.ksplat", "ksplat", 1e-4, 1e-2, 1 / 255, 1 / 255, 1e-2),
        ("level2.ksplat", "ksplat", 1e-4, 1e-2, 1 / 255, 1 / 255, 4e-2),
        ("source.sog", "sog", 3e-4, 8e-2, 3e-3, 1 / 255, None),
        ("folder", "sog", 3e-4, 8e-2, 3e-3, 1 / 255, None),
        ("folder/meta.json", "sog", 3e-4, 8e-2, 3e-3, 1 / 255, None),
        ("source.glb", "gltf", 1e-6, 1e-5, 1e-6, 1e-6, 1e-6),
        ("source.spz", "spz", 3e-4, 8e-2, 4e-3, 2e-3, 0.3),
        ("source_v3.spz", "spz", 3e-4, 8e-2, 4e-3, 2e-3, 0.3),
        ("source.compressed.ply", "compressed-ply", 4e-3, 2e-2, 2e-3, 2e-3, 8e-2),
        ("lod", "sog-lod", 3e-4, 8e-2, 3e-3, 1 / 255, None),
        ("lod/lod-meta.json", "sog-lod", 3e-4, 8e-2, 3e-3, 1 / 255, None),
    ],
)
def test_files_of_other_programs(
    source: GaussianScene,
    name: str,
    kind: str,
    mean: float,
    shape: float,
    color: float,
    opacity: float,
    harmonics: float | None,
) -> None:
    found = probe(FILES / name)
    assert (found.format, found.n_gaussians) == (kind, 300)
    scene = read_scene(FILES / name, harmonics=True).validated()
    distance, row = cKDTree(scene.means).query(source.means)  # other programs sort the rows along a curve
    assert sorted(row) == list(range(300))
    scene = scene.select(row)
    assert distance.max() < mean * 2
    off = np.abs(shapes(scene) - shapes(source)).max((1, 2)) / np.abs(shapes(source)).max((1, 2))
    assert off.max() < shape
    assert np.abs(scene.colors - source.colors).max() < color * 1.01
    assert np.abs(scene.opacities - source.opacities).max() < opacity * 1.01
    assert scene.render_mode is RenderMode.CLASSIC
    if harmonics is not None:
        assert np.abs(looks(scene) - looks(source)).max() < harmonics
    elif name != "lod" and "lod" not in name:  # a palette of a few dozen entries for 300 different Gaussians
        assert np.median(np.abs(looks(scene) - looks(source))) < 0.05


def test_levels_of_detail() -> None:
    assert probe(FILES / "lod", lod=1).n_gaussians == 100
    assert len(read_scene(FILES / "lod", lod=1).validated()) == 100
    with pytest.raises(SceneError, match="has levels of detail 0 to 1, not 2"):
        read_scene(FILES / "lod", lod=2)
    with pytest.raises(SceneError, match="is spz, which has no levels of detail"):
        read_scene(FILES / "source.spz", lod=1)


def test_a_leaf_without_the_level_gives_its_nearest(tmp_path: Path) -> None:
    shutil.copytree(FILES / "lod", tmp_path / "lod")
    meta = json.loads((tmp_path / "lod" / "lod-meta.json").read_text())
    node = meta["tree"]
    while "children" in node:
        node = node["children"][0]
    fine, coarse = node["lods"]["0"]["count"], node["lods"]["1"]["count"]
    del node["lods"]["0"]
    (tmp_path / "lod" / "lod-meta.json").write_text(json.dumps(meta))
    assert len(read_scene(tmp_path / "lod")) == 300 - fine + coarse


@pytest.mark.parametrize("name", ["../outside/meta.json", "/etc/passwd", "..\\x", "nothing/meta.json"])
def test_streamed_scenes_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    shutil.copytree(FILES / "lod", tmp_path / "lod")
    shutil.copytree(FILES / "folder", tmp_path / "outside")
    meta = json.loads((tmp_path / "lod" / "lod-meta.json").read_text())
    meta["filenames"] = [name] * len(meta["filenames"])
    (tmp_path / "lod" / "lod-meta.json").write_text(json.dumps(meta))
    with pytest.raises(SceneError, match=r"lod: (names the file .* does not lie in its folder|holds no nothing)"):
        read_scene(tmp_path / "lod")


def edited(folder: Path, change: dict[str, object], where: str = "") -> Path:
    """A copy of the unpacked scene with another meta.json."""
    shutil.copytree(FILES / "folder", folder)
    meta = json.loads((folder / "meta.json").read_text())
    (meta[where] if where else meta).update(change)
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize(
    ("change", "mode"),
    [({"antialias": True}, "antialiased"), ({"model": "antialiased"}, "antialiased"), ({"model": "2dgs"}, "2dgs")],
)
def test_sog_render_mode(tmp_path: Path, change: dict[str, object], mode: str) -> None:
    assert read_scene(edited(tmp_path / "a", change)).render_mode is RenderMode(mode)


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        ({"version": 3}, "", "not that of a SOG scene"),
        ({"count": 10**9}, "", "limit of"),
        ({"count": 2_000_000}, "", "more than its .* bytes can hold"),
        ({"count": 400}, "", r"has \d+x\d+ pixels, expected 400"),
        ({"count": "3"}, "", "not that of a SOG scene"),
        ({"means": None}, "", "has no means"),
        ({"files": ["means_l.webp"]}, "means", "means needs 2 files"),
        ({"files": ["../a", "b"]}, "means", "does not lie in its folder"),
        ({"mins": [0, 0]}, "means", "means.mins is not a list of 3 to 3 numbers"),
        ({"codebook": [1.0]}, "scales", r"scales uses entry \d+ of a codebook with 1"),
        ({"codebook": ["a"] * 256}, "sh0", "sh0.codebook is not a list of 1 to 256 numbers"),
        ({"bands": 9}, "shN", "shN has 9 bands"),
        ({"count": 1}, "shN", "shN_centroids.webp has"),
    ],
)
def test_damaged_sog_meta(tmp_path: Path, change: dict[str, object], where: str, message: str) -> None:
    path = edited(tmp_path / "a", change, where)
    with pytest.raises(SceneError, match=rf"{path}.*{message}"):
        read_scene(path, harmonics=True)


def test_older_sog_is_named_with_the_tool_that_converts_it(tmp_path: Path) -> None:
    path = edited(tmp_path / "a", {})
    meta = json.loads((path / "meta.json").read_text())
    del meta["version"]
    (path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(SceneError, match="SOG version 1; convert it: npx @playcanvas/splat-transform"):
        read_scene(path)


def test_a_zipped_folder_is_a_sog_scene(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "room.sog", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (FILES / "folder").iterdir():
            archive.write(file, f"export/{file.name}")
    scene = read_scene(tmp_path / "room.sog")
    assert scene.name == "room"
    np.testing.assert_array_equal(scene.means, read_scene(FILES / "folder").means)
    assert read_scene(FILES / "folder" / "meta.json").name == "folder"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.usdz", "OpenUSD"), ("a.lcc", "npx @playcanvas/splat-transform a.lcc OUT.ply"), ("a.pt", "PyTorch"),
        ("a.las", "pdal translate a.las OUT.ply"), ("a.LAZ", "pdal"), ("a.e57", "pdal"), ("a.pcd", "pcl_pcd2ply"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("head", [b"anything", b"PK\x03\x04zipped"])
def test_formats_that_are_not_read_are_named(tmp_path: Path, name: str, words: str, head: bytes) -> None:
    (tmp_path / name).write_bytes(head + bytes(64))
    for look in (probe, read_scene):
        with pytest.raises(SceneError, match=rf"{name}: is .*which is not read; ") as error:
            look(tmp_path / name)
        assert words in str(error.value)


# ---- glTF ------------------------------------------------------------------------------------------------------------


def taken_apart(path: Path) -> tuple[dict, bytes]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[12:16], "little")
    return json.loads(raw[20 : 20 + length]), raw[28 + length :]


def as_gltf(folder: Path, document: dict, binary: bytes) -> Path:
    """The text form, with its buffer in a file beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    document["buffers"][0]["uri"] = "data.bin"
    (folder / "data.bin").write_bytes(binary)
    (folder / "a.gltf").write_text(json.dumps(document))
    return folder / "a.gltf"


def test_nodes_move_turn_and_scale(tmp_path: Path, source: GaussianScene) -> None:
    document, binary = taken_apart(FILES / "source.glb")
    half = 0.5**0.5
    document["nodes"] = [
        {"children": [1], "translation": [1, 2, 3], "scale": [2, 2, 2]},
        {"mesh": 0, "rotation": [0, 0, half, half]},  # a quarter turn about z: x to y
    ]
    moved = read_scene(as_gltf(tmp_path, document, binary), harmonics=True)
    still = read_scene(FILES / "source.glb", harmonics=True)
    # in glTF's axes, which are ours after half a turn about z, here and back
    flip, turn = np.diag([-1.0, -1.0, 1.0]), np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    whole = flip @ turn @ flip
    wanted = 2 * still.means @ whole.T + flip @ [1, 2, 3]
    np.testing.assert_allclose(moved.means, wanted, atol=1e-5)
    np.testing.assert_allclose(shapes(moved), 4 * whole @ shapes(still) @ whole.T, atol=1e-5)
    directions = np.random.default_rng(3).normal(size=(9, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before = np.einsum("dk,nkc->dnc", sh_basis(directions, 2), still.harmonics)
    after = np.einsum("dk,nkc->dnc", sh_basis(directions @ whole.T, 2), moved.harmonics)
    np.testing.assert_allclose(after, before, atol=1e-5)
    document["nodes"][0]["scale"] = [1, 2, 1]
    with pytest.raises(SceneError, match="a node stretches or shears its Gaussians"):
        read_scene(as_gltf(tmp_path, document, binary))


def test_scales_of_earlier_drafts_are_logarithms(tmp_path: Path) -> None:
    document, binary = taken_apart(FILES / "source.glb")
    number = document["meshes"][0]["primitives"][0]["attributes"]["KHR_gaussian_splatting:SCALE"]
    view = document["bufferViews"][document["accessors"][number]["bufferView"]]
    part = slice(view["byteOffset"], view["byteOffset"] + view["byteLength"])
    logs = np.log(np.frombuffer(binary[part], "<f4")).astype("<f4").tobytes()
    path = as_gltf(tmp_path, document, binary[: part.start] + logs + binary[part.stop :])
    np.testing.assert_allclose(read_scene(path).scales, read_scene(FILES / "source.glb").scales, rtol=1e-5)


def test_quantised_attributes_and_two_primitives(tmp_path: Path) -> None:
    document, binary = taken_apart(FILES / "source.glb")
    primitive = document["meshes"][0]["primitives"][0]
    plain = read_scene(FILES / "source.glb")
    rotation = np.rint(plain.quats[:, [1, 2, 3, 0]] * 32767).astype("<i2").tobytes()
    document["bufferViews"].append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(rotation)})
    document["accessors"].append(
        {"bufferView": len(document["bufferViews"]) - 1, "componentType": 5122, "normalized": True, "count": 300,
         "type": "VEC4"}
    )  # fmt: skip
    second = json.loads(json.dumps(primitive))
    second["attributes"]["KHR_gaussian_splatting:ROTATION"] = len(document["accessors"]) - 1
    document["meshes"][0]["primitives"] += [{"attributes": {"POSITION": 0}}, second]
    document["buffers"][0]["byteLength"] += len(rotation)
    path = as_gltf(tmp_path, document, binary + rotation)
    assert probe(path).n_gaussians == 600
    scene = read_scene(path)
    np.testing.assert_array_equal(scene.means[:300], plain.means)
    np.testing.assert_array_equal(scene.means[300:], plain.means)
    turned = (scene.quats[300:] * scene.quats[:300]).sum(1)
    assert np.abs(turned).min() < 0.99  # the second part was given our turned quaternions as they are


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["meshes"][0]["primitives"][0].pop("extensions"), "holds no Gaussians"),
        (lambda d: d["accessors"][0].update(count=9999), "more than its bytes hold"),
        (lambda d: d["accessors"][0].update(componentType=1), "of a kind that cannot be read"),
        (lambda d: d["accessors"][2].update(sparse={}), "is a sparse accessor"),
        (lambda d: d["bufferViews"][0].update(byteLength=2**50), "damaged offsets"),
        (lambda d: d["buffers"][0].update(uri="../data.bin"), "does not lie in its folder"),
        (lambda d: d["buffers"][0].update(uri="data:application/octet-stream;base64,&&"), "data URI is damaged"),
        (lambda d: d.update(nodes=[{"mesh": 0, "children": [0]}]), "nodes that contain themselves"),
        (lambda d: d["nodes"][0].update(mesh=5), "refers to meshes number 5"),
        (
            lambda d: d["meshes"][0]["primitives"][0]["extensions"]["KHR_gaussian_splatting"].update(
                extensions={"KHR_gaussian_splatting_compression_spz_2": {}}
            ),
            "packed by KHR_gaussian_splatting_compression_spz_2, which is not read",
        ),
    ],
)
def test_damaged_gltf(tmp_path: Path, change, message: str) -> None:
    document, binary = taken_apart(FILES / "source.glb")
    path = as_gltf(tmp_path, document, binary)
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(SceneError, match=rf"{tmp_path}.*{message}"):
        read_scene(path, max_gaussians=10_000)


def test_spz_inside_a_name_that_says_nothing(tmp_path: Path, source: GaussianScene) -> None:
    write_spz(tmp_path / "a.bin", source, 3)
    assert probe(tmp_path / "a.bin").format == "spz"
