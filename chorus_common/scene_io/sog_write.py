"""PlayCanvas SOG, written (layout: sog.py), and a user's own SOG scene with further columns.

Scales, colours and harmonics are indices into codebooks of 256 values, fitted here by Lloyd's algorithm on their
histogram; harmonics of a Gaussian are one of at most 65,536 palette entries, fitted by k-means on a seeded sample. The
same scene gives the same bytes.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.harmonics import sh_degree
from chorus_common.runtime.atomic import atomic_path, write_bytes_atomically
from chorus_common.scene import SH_C0, GaussianScene, RenderMode
from chorus_common.scene_io.archive import Files, ZipFiles
from chorus_common.scene_io.bounds import fail
from chorus_common.scene_io.sog import META, count_sog, read_meta, sog_files
from chorus_common.scene_io.webp import read_table, write_table

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

#: Key of meta.json under which further columns are listed: name -> {"file", "type"}.
COLUMNS = "chorus_columns"

#: Bins of the histogram that a codebook is fitted to, and rounds of Lloyd's algorithm.
_BINS, _ROUNDS = 1 << 14, 24
#: Palette of harmonics: every Gaussian its own entry up to this many, then one for eight of them.
_OWN_ENTRIES, _PALETTE = 4096, 16384
_SAMPLE, _PALETTE_ROUNDS = 1 << 17, 6
#: Distances computed at a time: bounds memory.
_BLOCK_DISTANCES = 1 << 24


def write_sog(scene: GaussianScene, path: str | Path) -> Path:
    """Write `scene` (with its harmonics up to degree 3) as a .sog file, rows in their order."""
    path = Path(path)
    n = len(scene)
    width = -(-int(np.ceil(np.sqrt(n))) // 4) * 4
    height = -(-n // (width * 4)) * 4
    f_dc = ((scene.colors.astype(np.float64) - 0.5) / SH_C0).astype(np.float32)
    low, high, mins, maxs = _means(scene.means)
    scale_book, scale_codes = codebook(np.log(scene.scales))
    color_book, color_codes = codebook(f_dc)
    opacity = np.rint(scene.opacities * 255).astype(np.uint8)[:, None]
    tables = {
        "means_l.webp": _opaque(low), "means_u.webp": _opaque(high), "quats.webp": _quats(scene.quats),
        "scales.webp": _opaque(scale_codes), "sh0.webp": np.concatenate([color_codes, opacity], axis=1),
    }  # fmt: skip
    members = {name: write_table(table, width, height) for name, table in tables.items()}
    meta: dict[str, Any] = {
        "version": 2, "asset": {"generator": "chorus-data"}, "count": n,
        "means": {"mins": mins, "maxs": maxs, "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_book.tolist(), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": color_book.tolist(), "files": ["sh0.webp"]},
    }  # fmt: skip
    if scene.render_mode is not RenderMode.CLASSIC:
        meta["model"] = "2dgs" if scene.render_mode is RenderMode.DISCS else "antialiased"
    if scene.harmonics is not None and scene.harmonics.shape[1]:
        bands = sh_degree(scene.harmonics.shape[1])
        if bands > 3:
            fail(path, "SOG holds harmonics up to degree 3; these are of degree 4")
        palette, labels = harmonics_palette(scene.harmonics.reshape(n, -1))
        book, codes = codebook(palette)
        picture = _opaque(codes.reshape(-1, 3))
        members["shN_centroids.webp"] = write_table(picture, 64 * scene.harmonics.shape[1], -(-len(palette) // 64))
        pixels = np.stack([labels & 0xFF, labels >> 8, np.zeros_like(labels)], axis=1).astype(np.uint8)
        members["shN_labels.webp"] = write_table(_opaque(pixels), width, height)
        files = ["shN_centroids.webp", "shN_labels.webp"]
        meta["shN"] = {"count": len(palette), "bands": bands, "codebook": book.tolist(), "files": files}
    members[META] = json.dumps(meta, separators=(",", ":")).encode()
    write_bytes_atomically(path, _zipped(members))
    return path


def _opaque(rgb: U8) -> U8:
    return np.concatenate([rgb, np.full((len(rgb), 1), 255, np.uint8)], axis=1)


def _means(means: F32) -> tuple[U8, U8, list[float], list[float]]:
    """Low and high bytes [N, 3] of 16-bit positions on a logarithmic axis, and its ends."""
    logs = np.sign(means) * np.log1p(np.abs(means.astype(np.float64)))
    low, high = logs.min(0), logs.max(0)
    steps = np.rint(65535 * (logs - low) / np.where(high > low, high - low, 1)).astype(np.uint16)
    return (steps & 0xFF).astype(np.uint8), (steps >> 8).astype(np.uint8), low.tolist(), high.tolist()


def _quats(quats: F32) -> U8:
    """[N, 4]: the three smaller components of (w, x, y, z), and which one is left out."""
    rows = np.arange(len(quats))
    largest = np.abs(quats).argmax(1)
    signed = quats * np.where(quats[rows, largest] < 0, -1, 1)[:, None] * np.sqrt(2)
    rest = signed[np.arange(4) != largest[:, None]].reshape(-1, 3)
    steps = np.rint((rest * 0.5 + 0.5) * 255).clip(0, 255)
    return np.concatenate([steps, 252 + largest[:, None]], axis=1).astype(np.uint8)


def codebook(values: NDArray[np.floating]) -> tuple[F32, U8]:
    """256 values that stand for `values` with little squared error, and the index of each, in the shape of `values`."""
    flat = np.asarray(values, np.float64).reshape(-1)
    distinct = np.unique(flat)
    if len(distinct) <= 256:
        book = np.resize(distinct, 256)
        book[len(distinct) :] = distinct[-1]
        return book.astype(np.float32), np.searchsorted(distinct, flat).astype(np.uint8).reshape(values.shape)
    # bins of equal count where values are dense and none wider than a 256th of the range, so that tails have bins, too
    equal = np.quantile(flat, np.linspace(0, 1, _BINS))
    edges = np.unique(np.concatenate([equal, np.linspace(distinct[0], distinct[-1], 257)]))
    place = np.clip(np.searchsorted(edges, flat, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(place, minlength=len(edges) - 1).astype(np.float64)
    total = np.bincount(place, flat, minlength=len(edges) - 1)
    # the cube root of the density places codes where they lower the squared error most (Panter and Dite 1951)
    width = np.diff(edges)
    share = np.cumsum((count / np.maximum(width, 1e-30)) ** (1 / 3) * width)
    book = np.interp((np.arange(256) + 0.5) / 256 * share[-1], share, edges[1:])
    sums, counts = np.concatenate([[0.0], np.cumsum(total)]), np.concatenate([[0.0], np.cumsum(count)])
    for _ in range(_ROUNDS):
        cuts = np.searchsorted(edges[1:-1], (book[1:] + book[:-1]) / 2)
        ends = np.concatenate([[0], cuts, [len(count)]])
        inside = counts[ends[1:]] - counts[ends[:-1]]
        mean = (sums[ends[1:]] - sums[ends[:-1]]) / np.maximum(inside, 1)
        book = np.sort(np.where(inside > 0, mean, book))
    book = book.astype(np.float32).astype(np.float64)
    codes = np.searchsorted((book[1:] + book[:-1]) / 2, flat)
    return book.astype(np.float32), codes.astype(np.uint8).reshape(values.shape)


def harmonics_palette(rows: F32) -> tuple[F32, NDArray[np.int64]]:
    """At most 65,536 vectors [P, D] that stand for `rows` [N, D], and the one of each row [N]."""
    distinct, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    if len(distinct) <= _OWN_ENTRIES:
        return distinct, inverse.reshape(-1).astype(np.int64)
    rng = np.random.default_rng(0)
    sample = rows[np.sort(rng.choice(len(rows), min(len(rows), _SAMPLE), replace=False))]
    size = min(_PALETTE, max(_OWN_ENTRIES, 1 << int(np.log2(len(rows) / 8))))
    palette = rows[np.sort(rng.choice(np.sort(first), size, replace=False))].astype(np.float32)
    for _ in range(_PALETTE_ROUNDS):
        near = _nearest(sample, palette)
        count = np.bincount(near, minlength=size)
        total = np.stack([np.bincount(near, sample[:, d], minlength=size) for d in range(sample.shape[1])], axis=1)
        palette = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], palette).astype(np.float32)
    return palette, _nearest(rows, palette)


def _nearest(rows: F32, palette: F32) -> NDArray[np.int64]:
    """The closest palette entry of each row."""
    half = (palette * palette).sum(1) / 2
    out = np.empty(len(rows), np.int64)
    step = max(1, _BLOCK_DISTANCES // len(palette))
    for start in range(0, len(rows), step):
        out[start : start + step] = (half - rows[start : start + step] @ palette.T).argmin(1)
    return out


def _zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip archive of stored members (WebP is packed already) with fixed dates."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return out.getvalue()


# ---- further columns -------------------------------------------------------------------------------------------------


def rewrite_sog(source: Path, out: Path, columns: Mapping[str, NDArray[Any]]) -> Path:
    """Write the SOG scene `source` (zip or folder) to `out` with `columns` (name -> [N]) as further pictures.

    A column is a lossless WebP whose four bytes a pixel are the little-endian int32 or float32 of that Gaussian; it is
    listed in meta.json, which viewers pass over. All other files stay as they are, byte for byte.
    """
    files = sog_files(source)
    assert files is not None
    n = count_sog(source)
    width = max(1, int(np.ceil(np.sqrt(n))))
    entries, pictures = {}, {}
    for name, values in columns.items():
        table = np.ascontiguousarray(values, "<i4" if np.asarray(values).dtype.kind in "iub" else "<f4")
        entries[name] = {"file": f"{name}.webp", "type": table.dtype.str}
        pictures[f"{name}.webp"] = write_table(table.view(np.uint8).reshape(n, 4), width, -(-n // width))
    meta = read_meta(source, files)
    meta[COLUMNS] = entries
    added = pictures | {META: json.dumps(meta, separators=(",", ":")).encode()}
    if source.is_dir() or source.suffix == ".json":
        folder = source if source.is_dir() else source.parent
        for file in sorted(folder.iterdir()):
            if file.is_file() and not file.name.startswith(".") and file.name not in added:
                with atomic_path(out / file.name) as temporary:
                    shutil.copyfile(file, temporary)
        for name, data in added.items():  # meta.json last: a folder counts as a scene once it has it
            write_bytes_atomically(out / name, data)
        return out
    assert isinstance(files, ZipFiles)
    members = {name: data for name, data in files.everything() if name not in added} | added
    write_bytes_atomically(out, _zipped(members))
    return out


def sog_columns(path: Path) -> dict[str, NDArray[Any]]:
    """The columns that `rewrite_sog` put into `path`, by name; empty where there are none."""
    files: Files | None = sog_files(path)
    assert files is not None
    entries = read_meta(path, files).get(COLUMNS, {})
    if not isinstance(entries, dict):
        fail(path, f"{META}: {COLUMNS} is not an object")
    found = {}
    n = count_sog(path)
    for name, entry in entries.items():
        file, kind = (entry.get("file"), entry.get("type")) if isinstance(entry, dict) else (None, None)
        if not isinstance(file, str) or kind not in ("<i4", "<f4"):
            fail(path, f"{META}: {COLUMNS} has no file and type for {name[:40]}")
        found[name] = np.ascontiguousarray(read_table(path, files, file, n)).view(kind)[:, 0]
    return found
