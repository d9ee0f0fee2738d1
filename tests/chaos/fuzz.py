"""Thousands of damaged and hostile files through the readers, in a process of its own that a crash may end.

python -m tests.chaos.fuzz FAMILY FIRST LAST     reads the cases FIRST to LAST - 1; prints what was found as JSON
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import struct
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np

from chorus_common.camera_io import read_cameras, write_transforms_json
from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.runtime.errors import ChorusError
from chorus_common.runtime.peak_memory import peak_memory
from chorus_common.scene_io import probe, read_scene
from tests.chorus_common.scene_files import (
    inria_rows,
    random_scene,
    write_compressed,
    write_inria,
    write_ply,
    write_splat,
    write_spz,
)
from tests.chorus_common.test_camera_io import cameras, colmap_bin, colmap_txt, inria_entries, scannet
from tests.chorus_common.test_scene_io_foreign import as_gltf, taken_apart

#: Bytes that a case may ask for on top of what the interpreter and the libraries hold.
MEMORY = 1 << 30
SECONDS = 20
SCENE = random_scene(12, seed=3)
XYZRGB = dict.fromkeys("xyz", "float") | dict.fromkeys(("red", "green", "blue"), "uchar")

#: What a file may hold in place of a number or a word.
NUMBERS = (b"0", b"-1", b"4294967295", b"99999999999999999999", b"1e308", b"nan", b"inf", b"2147483648", b"\xff\xff")
WORDS = (b"element", b"property", b"list", b"double", b"uchar", b"\n", b"{", b"]", b"../../etc", b"null", b"[[[[[[[[")


def read_any_scene(path: Path) -> None:
    probe(path)
    scene = read_scene(path, max_gaussians=10_000, harmonics=True)
    if scene.outliers is None or not scene.outliers.all():
        scene.without_outliers().validated()


def write_manifest(path: Path) -> None:
    root = path.parent
    rows = [
        ManifestRow("d", f"s{i}", "train", "npy", root / f"s{i}", root / "c.json" if i else None, "", i + 1, "0" * 64)
        for i in range(3)
    ]
    Manifest(root, tuple(rows)).write(path)


def copied(name: str) -> Callable[[Path], object]:
    """Writes the file `name` of another program (tests/data/formats), or the folder that it belongs to."""
    source = Path(__file__).parents[1] / "data" / "formats" / name

    def write(path: Path) -> None:
        if "/" in name:
            shutil.copytree(source.parent, path.parent, dirs_exist_ok=True)
        else:
            path.write_bytes(source.read_bytes())

    return write


def write_gltf_text(path: Path) -> None:
    document, binary = taken_apart(Path(__file__).parents[1] / "data" / "formats" / "source.glb")
    as_gltf(path.parent, document, binary)


def dialect(kind: str) -> Callable[[Path], object]:
    """Writes Gaussians as other programs do: named in the family "ply-dialects"."""

    def write(path: Path) -> None:
        rows = inria_rows(SCENE)
        types: dict[str, str] = {}
        comments: tuple[str, ...] = ()
        if kind == "bytes":
            rows = [{k: v for k, v in row.items() if not k.startswith("f_dc")} for row in rows]
            rows = [row | {"red": 10, "green": 200, "blue": 30} for row in rows]
            types = dict.fromkeys(("red", "green", "blue"), "uchar")
        elif kind == "mip":
            rows = [row | {"filter_3D": 0.03} for row in rows]
        elif kind == "discs":
            rows = [{k: v for k, v in row.items() if k != "scale_2"} for row in rows]
            comments = ("SplatRenderMode: 2dgs",)
        elif kind == "balls":
            gone = ("scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")
            rows = [{k: v for k, v in row.items() if k not in gone} for row in rows]
        else:
            rows = [row | {f"semantic_{i}": 0.5 for i in range(512)} for row in rows]
        columns = {name: types.get(name, "float") for name in rows[0]}
        write_ply(path, [("vertex", columns, [list(row.values()) for row in rows])], comments=comments)

    return write


def write_points(path: Path) -> None:
    write_ply(path, [("vertex", XYZRGB, [[*map(float, m), 10, 20, 30] for m in SCENE.means])], order="a")


#: Family -> file that is damaged -> (writes it, with whatever belongs to it; reads it, or the folder it belongs to).
Case = tuple[Callable[[Path], object], Callable[[Path], object]]
FAMILIES: dict[str, dict[str, Case]] = {
    "ply": {
        "inria.ply": (lambda p: write_inria(p, SCENE, n_rest=9), read_any_scene),
        "big.ply": (lambda p: write_inria(p, SCENE, order=">"), read_any_scene),
        "compressed.ply": (lambda p: write_compressed(p, SCENE, color_ranges=True), read_any_scene),
        "ascii.ply": (write_points, read_any_scene),
    },
    "ply-dialects": {
        f"{kind}.ply": (dialect(kind), read_any_scene) for kind in ("bytes", "mip", "discs", "balls", "semantic")
    },
    "splat": {"a.splat": (lambda p: write_splat(p, SCENE), read_any_scene)},
    "spz": {
        "v2.spz": (lambda p: write_spz(p, SCENE, 2), read_any_scene),
        "v4.spz": (lambda p: write_spz(p, SCENE, 4, degree=1), read_any_scene),
        **{
            f"axes{version}.spz": (
                lambda p, version=version: write_spz(
                    p, SCENE, version, degree=1, extension=struct.pack("<III", 0xADBE0003, 4, 11)
                ),
                read_any_scene,
            )
            for version in (3, 4)
        },
    },
    "ksplat": {f"level{n}.ksplat": (copied(f"level{n}.ksplat"), read_any_scene) for n in (0, 1, 2)},
    "sog": {
        "source.sog": (copied("source.sog"), read_any_scene),
        **{
            f"folder/{name}": (copied(f"folder/{name}"), lambda p: read_any_scene(p.parent))
            for name in ("meta.json", "means_l.webp", "shN_centroids.webp", "quats.webp")
        },
        "lod/lod-meta.json": (copied("lod/lod-meta.json"), lambda p: read_any_scene(p.parent)),
    },
    "gltf": {
        "source.glb": (copied("source.glb"), read_any_scene),
        "a.gltf": (write_gltf_text, read_any_scene),
    },
    "manifest": {"manifest.parquet": (write_manifest, Manifest.read)},
    "cameras": {
        "transforms.json": (lambda p: write_transforms_json(cameras(), p), read_cameras),
        "cameras.json": (lambda p: p.write_text(json.dumps(inria_entries(cameras()))), read_cameras),
        **{
            f"colmap_{kind}/{name}.{kind}": (
                lambda p, write=write: write(p.parent, cameras()),
                lambda p: read_cameras(p.parent),
            )
            for kind, write in (("bin", colmap_bin), ("txt", colmap_txt))
            for name in ("cameras", "images")
        },
        **{
            name: (
                lambda p: scannet(p.parent.parent, cameras().resized(1296, 968)),
                lambda p: read_cameras(p.parent.parent),
            )
            for name in ("scan/pose/20.txt", "scan/intrinsic/intrinsic_color.txt")
        },
    },
}  # fmt: skip


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` after one to four of: bit flips, numbers or words put in, a part cut, doubled or zeroed, end lost."""
    raw = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        begin = int(rng.integers(len(raw) + 1))
        end = min(len(raw), begin + int(rng.integers(1, 64)))
        match int(rng.integers(7)):
            case 0:
                for place in rng.integers(0, max(len(raw), 1), 3):
                    if raw:
                        raw[int(place)] ^= 1 << int(rng.integers(8))
            case 1:
                number = NUMBERS[int(rng.integers(len(NUMBERS)))]
                raw[begin : begin + len(number)] = number
            case 2:
                raw[begin:begin] = WORDS[int(rng.integers(len(WORDS)))]
            case 3:
                del raw[begin:end]
            case 4:
                raw[end:end] = raw[begin:end] * int(rng.integers(1, 40))
            case 5:
                raw[begin:end] = bytes(end - begin)
            case _:
                del raw[begin:]
    return bytes(raw)


def too_long(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError


def run(family: str, first: int, last: int) -> dict[str, object]:
    """How many cases were read, how many refused with one line, and everything else."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    signal.signal(signal.SIGALRM, too_long)
    with tempfile.TemporaryDirectory() as folder:
        samples: list[tuple[Path, bytes, Callable[[Path], object]]] = []
        for name, (write, read) in FAMILIES[family].items():
            place = Path(folder, str(len(samples)))
            place.mkdir()
            path = place / name
            write(path)
            read(path)  # a whole file is read; what is compiled or imported now is not held against a case
            samples.append((path, path.read_bytes(), read))
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
        for case in range(first, last):
            path, data, read = samples[case % len(samples)]
            path.write_bytes(damaged(data, np.random.default_rng([case, 5])))
            print(
                f"{path.name} {case}", file=sys.stderr, flush=True
            )  # the last line names a case that ends the process
            signal.alarm(SECONDS)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    warnings.filterwarnings("ignore", message=".*skipped")  # views with a damaged pose, counted
                    read(path)
                counts["read"] += 1
            except ChorusError as error:
                counts["refused"] += 1
                if "\n" in str(error) or not str(error):
                    wrong.append(f"{path.name} {case}: not one line: {error}")
            except Exception as error:
                wrong.append(f"{path.name} {case}: {type(error).__name__}: {error}")
            finally:
                signal.alarm(0)
            path.write_bytes(data)
    return {"counts": counts, "wrong": wrong, "peak": peak_memory()}


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
