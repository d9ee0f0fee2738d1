"""Damaged and hostile files: one SceneError line that names the file, quickly, and never more memory than the file
deserves."""

from __future__ import annotations

import functools
import struct
import tempfile
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chorus_common.runtime.errors import SceneError
from chorus_common.scene_io import probe, read_scene, write_npy_folder
from tests.chorus_common.scene_files import (
    inria_rows,
    random_scene,
    write_compressed,
    write_inria,
    write_ply,
    write_splat,
    write_spz,
)

SCENE = random_scene(12, seed=3)
XYZRGB = dict.fromkeys("xyz", "float") | dict.fromkeys(("red", "green", "blue"), "uchar")
ROWS = [[*map(float, m), 10, 20, 30] for m in SCENE.means]


def write_npz(path: Path, save: Callable[..., None]) -> Path:
    save(path, xyz=SCENE.means, rgb=SCENE.colors, labels=np.arange(12))
    return path


def write_npy(path: Path) -> Path:
    np.save(path, np.column_stack([SCENE.means, SCENE.colors]))
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "inria.ply": lambda p: write_inria(p, SCENE, n_rest=2),
    "big.ply": lambda p: write_inria(p, SCENE, order=">"),
    "compressed.ply": lambda p: write_compressed(p, SCENE, color_ranges=True),
    "points.ply": lambda p: write_ply(p, [("vertex", XYZRGB, ROWS)], newline="\r\n"),
    "ascii.ply": lambda p: write_ply(p, [("vertex", XYZRGB, ROWS)], order="a"),
    "a.splat": lambda p: write_splat(p, SCENE),
    "v2.spz": lambda p: write_spz(p, SCENE, 2),
    "v4.spz": lambda p: write_spz(p, SCENE, 4, degree=1),
    "a.npy": write_npy,
    "stored.npz": lambda p: write_npz(p, np.savez),
    "packed.npz": lambda p: write_npz(p, np.savez_compressed),
}


@functools.cache
def sample(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return WRITERS[name](Path(folder) / name).read_bytes()


@functools.cache
def workspace() -> Path:
    folder = tempfile.TemporaryDirectory()
    workspace.keep = folder  # type: ignore[attr-defined]
    return Path(folder.name)


def read_bytes(name: str, data: bytes) -> bool:
    """Whether `data` reads as a scene; anything but a clean scene or a one-line SceneError fails the test."""
    path = workspace() / name
    path.write_bytes(data)
    error = ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            probe(path)
            scene = read_scene(path, max_gaussians=10_000)
            if scene.outliers is None or not scene.outliers.all():
                scene.without_outliers().validated()
        except SceneError as caught:
            error = str(caught)
    assert not error or (str(path) in error and "\n" not in error)
    return not error


@pytest.mark.parametrize("name", WRITERS)
def test_whole_files_read(name: str) -> None:
    assert read_bytes(name, sample(name))


@pytest.mark.parametrize("name", WRITERS)
def test_truncation_at_every_byte(name: str) -> None:
    data = sample(name)
    cuts = (
        range(len(data))
        if len(data) < 400
        else [*range(0, 400), *range(400, len(data), 11), *range(len(data) - 20, len(data))]
    )
    # an .splat is whole at every multiple of its row; an ascii file without its last line break is still whole, and so
    # is one whose last number lost a digit; a gzip stream without its trailing checksum holds every byte asked for
    whole = {cut for cut in cuts if read_bytes(name, data[:cut])}
    allowed = {
        "a.splat": set(range(32, len(data), 32)), "ascii.ply": set(range(len(data) - 2, len(data))),
        "v2.spz": set(range(len(data) - 9, len(data))),
    }  # fmt: skip
    assert whole <= allowed.get(name, set())


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_flipped_bytes(name: str, data: st.DataObject) -> None:
    raw = bytearray(sample(name))
    # most flips go to the header, where they do the most harm
    spot = st.one_of(st.integers(0, min(len(raw), 400) - 1), st.integers(0, len(raw) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(spot)] = data.draw(st.integers(0, 255))
    read_bytes(name, bytes(raw))


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_spliced_files(name: str, data: st.DataObject) -> None:
    raw = sample(name)
    a = data.draw(st.integers(0, len(raw)))
    b = data.draw(st.integers(0, len(raw)))
    read_bytes(name, raw[:a] + data.draw(st.binary(max_size=40)) + raw[b:])


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(
    count=st.one_of(st.integers(0, 2**70), st.sampled_from([12, 13, 2**31, 2**32, 2**63, 10**17])),
    chunks=st.integers(0, 2**40),
    kind=st.sampled_from(["inria.ply", "compressed.ply", "points.ply", "ascii.ply"]),
)
def test_hostile_counts(count: int, chunks: int, kind: str) -> None:
    raw = sample(kind).replace(b"element vertex 12", b"element vertex %d" % count)
    raw = raw.replace(b"element chunk 1", b"element chunk %d" % chunks)
    fits = count <= 12 and count > 0 and (kind != "compressed.ply" or chunks == 1)
    assert read_bytes(kind, raw) == fits


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("format binary_little_endian 1.0\nelement vertex 2\nproperty list uchar int x", "lists stands before or at"),
        ("format binary_little_endian 1.0\nelement vertex 2\nproperty floaty x", "line 4 is not understood"),
        ("format binary_little_endian 2.0\nelement vertex 2\nproperty float x", "line 2 is not understood"),
        ("element vertex 2\nproperty float x", "no format line"),
        ("format ascii 1.0\nelement vertex -2\nproperty float x", "line 3 is not understood"),
        ("format ascii 1.0\nelement vertex 2\nproperty float x\nproperty float x", "declares property x twice"),
        ("format ascii 1.0\nproperty float x", "line 3 is not understood"),
        ("format ascii 1.0\nelement vertex 2\nelement vertex 2", "declares element vertex twice"),
        ("format ascii 1.0\n" + "comment x\n" * 17000 + "element vertex 2", "more than 16384 lines"),
        ("format ascii 1.0\ncomment " + "x" * 1100000, "does not end within"),
    ],
)
def test_bad_ply_headers(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "a.ply"
    colors = "".join(f"property float {name}\n" for name in ("y", "z", "red", "green", "blue"))
    tail = colors if "list" in lines else ""
    path.write_bytes(f"ply\n{lines}\n{tail}end_header\n".encode() + b"\0" * 400)
    if "list" in lines:
        path.write_bytes(path.read_bytes().replace(b"property float y", b"property float x\nproperty float y", 1))
    with pytest.raises(SceneError, match=message):
        read_scene(path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("x", float("nan"), "means is not finite at row 5"),
        ("z", float("inf"), "means is not finite at row 5"),
        ("scale_1", float("nan"), "scale is not a number at row 5"),
        ("opacity", float("nan"), "opacity is not a number at row 5"),
        ("rot_2", float("nan"), "rotation is not finite at row 5"),
        ("f_dc_1", float("inf"), "f_dc is not finite at row 5"),
    ],
)
def test_absurd_values_name_their_row(tmp_path: Path, column: str, value: float, message: str) -> None:
    rows = inria_rows(SCENE)
    rows[5][column] = value
    vertex = ("vertex", dict.fromkeys(rows[0], "float"), [list(row.values()) for row in rows])
    path = write_ply(tmp_path / "bad.ply", [vertex])
    with pytest.raises(SceneError, match=f"bad.ply: {message}"):
        read_scene(path)


@pytest.mark.parametrize(("column", "value"), [("x", 5.3e8), ("z", -1e7), ("scale_1", 30.0), ("scale_2", float("inf"))])
def test_one_row_that_lies_or_reaches_too_far_is_kept_and_flagged(tmp_path: Path, column: str, value: float) -> None:
    rows = inria_rows(SCENE)
    rows[5][column] = value
    vertex = ("vertex", dict.fromkeys(rows[0], "float"), [list(row.values()) for row in rows])
    scene = read_scene(write_ply(tmp_path / "far.ply", [vertex]))
    assert scene.outliers is not None
    assert np.flatnonzero(scene.outliers).tolist() == [5]
    with pytest.raises(SceneError, match=r"scene far: 1 Gaussians lie .* first row 5 .* --outliers auto"):
        scene.validated()
    rest = scene.without_outliers().validated()
    assert rest.source_ids.tolist() == [i for i in range(12) if i != 5]
    np.testing.assert_array_equal(rest.means, SCENE.means[rest.source_ids])


def test_one_far_point_of_a_cloud_is_kept_and_flagged(tmp_path: Path) -> None:
    rows = [list(row) for row in ROWS]
    rows[3][0] = 5.3e8
    scene = read_scene(write_ply(tmp_path / "far.ply", [("vertex", XYZRGB, rows)]))
    assert scene.outliers is not None
    assert np.flatnonzero(scene.outliers).tolist() == [3]
    assert len(scene.without_outliers().validated()) == 11


def peak_of(action: Callable[[], object]) -> int:
    """Peak of Python and numpy allocations in bytes while `action` runs and fails."""
    tracemalloc.start()
    try:
        with pytest.raises(SceneError):
            action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_small_files_never_ask_for_much_memory(tmp_path: Path) -> None:
    big = 15_000_000
    npy_head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({big}, 6), }}"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(npy_head)) + npy_head.encode()
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xyz.npy", npy + bytes(64))
    streams = [pa.compress(bytes(1 << 16), codec="zstd", asbytes=True)] * 5
    sizes = [big * 9, big, big * 3, big * 3, big * 4]
    toc = b"".join(struct.pack("<QQ", len(a), b) for a, b in zip(streams, sizes))
    head4 = struct.pack("<IIIBBBBI12x", 0x5053474E, 4, big, 0, 12, 0, 5, 32)
    head2 = struct.pack("<IIIBBBB", 0x5053474E, 2, big, 0, 12, 0, 0)
    rows = b"format binary_little_endian 1.0\nelement vertex %d\nproperty float x\n" % big
    files = {
        "a.npy": npy,
        "a.ply": b"ply\n" + rows + b"property float opacity\nproperty float scale_0\nend_header\n",
        "b.ply": b"ply\n" + rows.replace(b"x\n", b"packed_position\n") + b"element chunk 99999999999\nend_header\n",
        "c.ply": b"ply\n"
        + rows.replace(b"binary_little_endian", b"ascii")
        + b"property float opacity\nend_header\n1 2\n",
        "a.spz": head4 + toc + b"".join(streams),
        "b.spz": zlib.compress(head2 + bytes(100), wbits=31),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for name in [*files, "bomb.npz"]:
        peak = peak_of(lambda name=name: read_scene(tmp_path / name))  # type: ignore[misc]
        assert peak < 4 << 20, f"{name} took {peak} bytes"


def test_decompression_bombs_stop_at_the_declared_size(tmp_path: Path) -> None:
    # 32 MB of zeros behind a header that promises 12 Gaussians: read or refused, but never inflated whole
    zeros = bytes(32 << 20)
    head = struct.pack("<IIIBBBB", 0x5053474E, 2, 12, 0, 12, 0, 0)
    gz = tmp_path / "bomb.spz"
    gz.write_bytes(zlib.compress(head + zeros, wbits=31))
    tracemalloc.start()
    read_scene(gz)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    bomb = pa.compress(zeros, codec="zstd", asbytes=True)
    sizes = [12 * 9, 12, 36, 36, 48]
    toc = b"".join(struct.pack("<QQ", len(bomb), n) for n in sizes)
    path = tmp_path / "bomb4.spz"
    path.write_bytes(struct.pack("<IIIBBBBI12x", 0x5053474E, 4, 12, 0, 12, 0, 5, 32) + toc + bomb * 5)
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(SceneError, match="zstd stream of positions is damaged"):
        read_scene(path)
    assert pa.default_memory_pool().max_memory() - before < 4 << 20


@pytest.mark.parametrize("key", ["coord", "color", "opacity", "scale", "quat"])
def test_folders_with_a_missing_or_odd_file(tmp_path: Path, key: str) -> None:
    folder = write_npy_folder(SCENE, tmp_path / "room")
    file = folder / f"{key}.npy"
    data = file.read_bytes()
    file.unlink()
    with pytest.raises(SceneError, match=r"room: (has no \w+.npy|is a folder without coord.npy)"):
        read_scene(folder)
    file.write_bytes(data[:-1])
    with pytest.raises(SceneError, match=rf"{key}.npy: array declares .* truncated"):
        read_scene(folder)
    np.save(file, np.load(data_path(tmp_path, data))[:-1])
    with pytest.raises(SceneError, match=r"has shape"):
        read_scene(folder)


def data_path(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "whole.npy"
    path.write_bytes(data)
    return path


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_flipped_bytes_in_folders(data: st.DataObject) -> None:
    folder = workspace() / "room"
    if not folder.exists():
        write_npy_folder(SCENE, folder)
    file = folder / f"{data.draw(st.sampled_from(['coord', 'color', 'opacity', 'scale', 'quat']))}.npy"
    whole = file.read_bytes()
    raw = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(raw)
    error = ""
    try:
        probe(folder)
        scene = read_scene(folder)
        if scene.outliers is None or not scene.outliers.all():
            scene.without_outliers().validated()
    except SceneError as caught:
        error = str(caught)
    finally:
        file.write_bytes(whole)
    assert not error or (str(folder) in error and "\n" not in error)


def test_what_is_no_scene(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "b.ply").write_text("")
    (tmp_path / "c.splat").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name, message in [
        ("a.txt", "no known scene format"), ("b.ply", "no known scene format"), ("c.splat", "holds no Gaussians"),
        ("empty", "without coord.npy"), ("nothing", "no such file or folder"),
    ]:  # fmt: skip
        with pytest.raises(SceneError, match=rf"{name}: .*{message}"):
            read_scene(tmp_path / name)
    with pytest.raises(SceneError, match="no such file"):
        probe(tmp_path / "nothing")
