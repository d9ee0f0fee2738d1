"""PlayCanvas SOG, version 2: meta.json and WebP pictures, in a zip (.sog) or a folder.

Layout (developer.playcanvas.com, "The SOG Format"; playcanvas/splat-transform read-sog). Pixel i of every picture is
Gaussian i.

    means    means_l, means_u: low and high byte of 16 bits between mins and maxs of sign(x) ln(|x| + 1)
    quats    three components / 255 * 2 - 1 over sqrt(2); alpha 252 + which of w, x, y, z is the largest and left out
    scales   three indices into a codebook of log scales
    sh0      three indices into a codebook of f_dc; alpha is the opacity
    shN      labels: 16 bits, which entry of the palette; centroids: the palette, 64 entries a row, K pixels each, whose
             bytes are indices into a codebook

Optional: `antialias` (true), `model` ("antialiased", "2dgs"). Axes are those of .ply.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.harmonics import SH_SIZES
from chorus_common.scene import SH_C0, GaussianScene, RenderMode
from chorus_common.scene_io.archive import Files, SceneFolder, ZipFiles, open_zip
from chorus_common.scene_io.bounds import MAX_GAUSSIANS, check_count, fail, finish, scene_name
from chorus_common.scene_io.compressed_ply import largest_restored
from chorus_common.scene_io.webp import read_picture, read_table

F32 = NDArray[np.float32]

META = "meta.json"
#: A codebook has 256 entries; the largest real meta.json is some tens of kilobytes.
_MAX_META = 16 << 20
#: Noise does not compress: real files take 10 to 20 bytes a Gaussian. One byte for 64 of them is a lie.
_MAX_PER_BYTE = 64


def sog_files(path: Path) -> Files | None:
    """The files of the SOG scene at `path` (a folder, its meta.json, or a zip with one); None where it is none."""
    if path.is_dir():
        return SceneFolder(path) if (path / META).is_file() else None
    if path.name == META:
        return SceneFolder(path.parent)
    with open_zip(path, "a .sog scene") as archive:
        found = [name for name in archive.namelist() if name == META or name.endswith(f"/{META}")]
    if not found:
        return None
    return ZipFiles(path, min(found, key=len).removesuffix(META), "a .sog scene")


def read_meta(path: Path, files: Files, name: str = META) -> dict[str, Any]:
    """The object in the file `name`."""
    if files.size(name) > _MAX_META:
        fail(path, f"{name} has {files.size(name)} bytes; not that of a SOG scene")
    try:
        meta = json.loads(files.read(name))
    except (ValueError, RecursionError) as error:
        fail(path, f"{name} is not valid JSON: {' '.join(str(error).split())[:80]}")
    if not isinstance(meta, dict):
        fail(path, f"{name} is not an object")
    return meta


def count_sog(path: Path) -> int:
    """Number of Gaussians, from meta.json."""
    files = sog_files(path)
    assert files is not None
    return _count(path, read_meta(path, files))


def mode_of_sog(path: Path) -> RenderMode:
    """How the Gaussians were rasterised, from meta.json."""
    files = sog_files(path)
    assert files is not None
    return _mode(read_meta(path, files))


def read_sog(
    path: Path, *, max_gaussians: int = MAX_GAUSSIANS, label_space: str = "", harmonics: bool = False
) -> GaussianScene:
    """Read the Gaussians of `path`."""
    files = sog_files(path)
    assert files is not None
    columns = read_sog_columns(path, files, max_gaussians=max_gaussians, harmonics=harmonics)
    return finish(path, **columns, name=sog_name(path), label_space=label_space)


def sog_name(path: Path) -> str:
    """Name of the scene: that of the folder where the path is its meta file."""
    return scene_name(path.resolve().parent if path.suffix == ".json" else path)


def read_sog_columns(path: Path, files: Files, *, max_gaussians: int, harmonics: bool) -> dict[str, Any]:
    """The decoded columns of a SOG scene, as `finish` takes them. `path` is what errors name."""
    meta = read_meta(path, files)
    n = _count(path, meta)
    check_count(path, n, max_gaussians)
    names = {key: _names(path, meta, key, 2 if key == "means" else 1) for key in ("means", "quats", "scales", "sh0")}
    held = sum(files.size(name) for group in names.values() for name in group)
    if n > held * _MAX_PER_BYTE + 65536:
        fail(path, f"declares {n} Gaussians, more than its {held} bytes can hold; truncated?")
    color = read_table(path, files, names["sh0"][0], n)
    f_dc = _looked_up(path, meta, "sh0", color[:, :3])
    columns: dict[str, Any] = {
        "means": _means(path, meta, *(read_table(path, files, name, n) for name in names["means"])),
        "quats": _quats(path, read_table(path, files, names["quats"][0], n)),
        "scales": np.exp(
            np.minimum(_looked_up(path, meta, "scales", read_table(path, files, names["scales"][0], n)[:, :3]), 80)
        ),
        "opacities": color[:, 3].astype(np.float32) / 255,
        "colors": f_dc * np.float32(SH_C0) + np.float32(0.5),
        "render_mode": _mode(meta),
    }
    if harmonics and meta.get("shN") is not None:
        columns["harmonics"] = _harmonics(path, files, meta, n)
    return columns


def _count(path: Path, meta: dict[str, Any]) -> int:
    if "version" not in meta and isinstance(meta.get("means"), dict):
        fail(path, "is SOG version 1; convert it: npx @playcanvas/splat-transform IN OUT.ply")
    count = meta.get("count")
    if meta.get("version") != 2 or type(count) is not int or count < 0:
        fail(path, f"{META} is not that of a SOG scene (version {meta.get('version')!r:.20}, count {count!r:.20})")
    return count


def _entry(path: Path, meta: dict[str, Any], key: str) -> dict[str, Any]:
    entry = meta.get(key)
    if not isinstance(entry, dict):
        fail(path, f"{META} has no {key}")
    return entry


def _names(path: Path, meta: dict[str, Any], key: str, count: int) -> list[str]:
    files = _entry(path, meta, key).get("files")
    if not isinstance(files, list) or len(files) != count or not all(isinstance(name, str) for name in files):
        fail(path, f"{META}: {key} needs {count} files")
    return files


def _numbers(path: Path, entry: dict[str, Any], where: str, least: int, most: int) -> F32:
    values = entry.get(where.rpartition(".")[2])
    plain = isinstance(values, list) and least <= len(values) <= most
    if not plain or not all(type(v) in (int, float) and abs(v) < 1e30 for v in values):  # type: ignore[union-attr]
        fail(path, f"{META}: {where} is not a list of {least} to {most} numbers")
    return np.array(values, np.float32)


def _looked_up(path: Path, meta: dict[str, Any], key: str, table: NDArray[np.uint8]) -> F32:
    """Entries of the codebook of `key` at the indices `table`."""
    codebook = _numbers(path, _entry(path, meta, key), f"{key}.codebook", 1, 256)
    if table.size and (worst := int(table.max())) >= len(codebook):
        fail(path, f"{key} uses entry {worst} of a codebook with {len(codebook)}")
    return codebook[table]


def _means(path: Path, meta: dict[str, Any], low: NDArray[np.uint8], high: NDArray[np.uint8]) -> F32:
    entry = _entry(path, meta, "means")
    mins, maxs = (_numbers(path, entry, f"means.{key}", 3, 3).astype(np.float64) for key in ("mins", "maxs"))
    steps = low[:, :3].astype(np.int32) | (high[:, :3].astype(np.int32) << 8)
    logs = mins + (maxs - mins) * (steps / 65535)
    return (np.sign(logs) * np.expm1(np.minimum(np.abs(logs), 80))).astype(np.float32)


def _quats(path: Path, table: NDArray[np.uint8]) -> F32:
    """Quaternions [N, 4] (w, x, y, z)."""
    if len(table) and (lowest := int(table[:, 3].min())) < 252:
        row = int(np.argmin(table[:, 3]))
        fail(path, f"quaternion of row {row} has the tag {lowest}, expected 252 to 255")
    small = (table[:, :3].astype(np.float32) / 255 * 2 - 1) / np.sqrt(2)
    return largest_restored(small.astype(np.float32), table[:, 3].astype(np.int64) - 252)


def _harmonics(path: Path, files: Files, meta: dict[str, Any], n: int) -> F32:
    """[N, K, 3] from the palette."""
    entry = _entry(path, meta, "shN")
    bands, palette = entry.get("bands"), entry.get("count")
    if bands not in (1, 2, 3) or type(palette) is not int or not 1 <= palette <= 65536:
        fail(path, f"{META}: shN has {bands!r:.20} bands and {palette!r:.20} entries, expected 1 to 3 and 1 to 65536")
    k = SH_SIZES[bands]
    centroids, labels = _names(path, meta, "shN", 2)
    picture = read_picture(path, files, centroids, 64 * k, -(-palette // 64))
    codes = picture.reshape(-1, k, 4)[:palette, :, :3]  # [palette, K, 3]
    table = read_table(path, files, labels, n)
    index = table[:, 0].astype(np.int64) | (table[:, 1].astype(np.int64) << 8)
    if len(index) and (worst := int(index.max())) >= palette:
        fail(path, f"shN uses entry {worst} of a palette with {palette}")
    return _looked_up(path, meta, "shN", codes)[index]


def _mode(meta: dict[str, Any]) -> RenderMode:
    model = meta.get("model")
    if model == "2dgs":
        return RenderMode.DISCS
    if model == "mip":
        return RenderMode.MIP
    return RenderMode.ANTIALIASED if model == "antialiased" or meta.get("antialias") is True else RenderMode.CLASSIC
