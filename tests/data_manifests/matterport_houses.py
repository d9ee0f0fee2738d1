"""Tiny houses in Matterport3D's raw layout, with their truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import look_at

#: Rows of category_mapping.tsv: raw category, NYU40 id, NYU class, mpcat40 id. A category_id is a row's number from 1.
CATEGORIES = (
    ("wall", "1", "wall", "1"), ("office chair", "5", "chair", "3"), ("ceiling", "22", "ceiling", "17"),
    ("potted plant", "40", "plant", "14"), ("remove", "", "void", "0"), ("bronze gong", "40", "gong", "39"),
)  # fmt: skip
#: Objects of a region: (id, raw category, segments). Segment 95 belongs to none; segment 900 is in no mesh.
OBJECTS = (
    (3, "wall", (5, 15)), (0, "office chair", (25,)), (8, "ceiling", (35,)), (1, "potted plant", (45, 900)),
    (5, "remove", (55,)), (6, "bronze gong", (65,)),
)  # fmt: skip
_SEGMENTS = (5, 15, 25, 35, 45, 55, 65, 95)


@dataclass(frozen=True, eq=False)
class Region:
    """Vertices [M, 3], colours, faces [F, 3], a segment per face; category ids per face follow from the objects, (id,
    raw category, segments) each, and the raw categories of the table.
    """

    vertices: NDArray[np.float32]
    colors: NDArray[np.uint8]
    faces: NDArray[np.int32]
    segments: NDArray[np.int64]
    groups: tuple[tuple[int, str, tuple[int, ...]], ...] = OBJECTS
    raw: tuple[str, ...] = tuple(category[0] for category in CATEGORIES)

    @property
    def objects(self) -> list[int]:
        """Position in `groups` of each face's object, -1 for none."""
        owner = {segment: i for i, group in enumerate(self.groups) for segment in group[2]}
        return [owner.get(segment, -1) for segment in self.segments.tolist()]

    @property
    def categories(self) -> list[int]:
        return [-1 if i < 0 else self.raw.index(self.groups[i][1]) + 1 for i in self.objects]


def tiny_region(seed: int, n: int = 40) -> Region:
    """Random triangles over all vertices but the last, which is in no face."""
    rng = np.random.default_rng(seed)
    return Region(
        rng.uniform(0, 3, (n, 3)).astype(np.float32),
        rng.integers(0, 256, (n, 3), dtype=np.uint8),
        rng.integers(0, n - 1, (3 * n, 3), dtype=np.int32),
        rng.choice(_SEGMENTS, 3 * n),
    )


def write_mesh(path: Path, region: Region) -> None:
    """The mesh with the properties that the release's files have, its segments and its objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    floats = "".join(f"property float {name}\n" for name in ("x", "y", "z", "nx", "ny", "nz", "tx", "ty"))
    colors = "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    ids = "".join(f"property int {name}\n" for name in ("material_id", "segment_id", "category_id"))
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(region.vertices)}\n{floats}{colors}"
        f"element face {len(region.faces)}\nproperty list uchar int vertex_indices\n{ids}end_header\n"
    )
    vertex = np.zeros(len(region.vertices), [("xyz", "<f4", 3), ("more", "<f4", 5), ("rgb", "u1", 3)])
    vertex["xyz"], vertex["rgb"] = region.vertices, region.colors
    face = np.zeros(len(region.faces), [("n", "u1"), ("v", "<i4", 3), ("ids", "<i4", 3)])
    face["n"], face["v"] = 3, region.faces
    face["ids"] = np.stack([region.segments, region.objects, region.categories], 1)
    path.write_bytes(header.encode() + vertex.tobytes() + face.tobytes())
    path.with_suffix(".fsegs.json").write_text(json.dumps({"segIndices": region.segments.tolist()}))
    groups = [{"id": i, "objectId": i, "label": raw, "segments": list(s)} for i, raw, s in region.groups]
    path.with_suffix(".semseg.json").write_text(json.dumps({"segGroups": groups}))


def table(rows: tuple[tuple[str, str, str, str], ...] = CATEGORIES) -> str:
    lines = ["index\traw_category\tnyu40id\tnyuClass\tmpcat40index\tmpcat40"]
    lines += [f"{k}\t{raw}\t{nyu40}\t{nyu}\t{own}\t" for k, (raw, nyu40, nyu, own) in enumerate(rows, start=1)]
    return "\n".join(lines) + "\n"


def house_file(regions: int) -> str:
    """Region k holds panorama pano<k>; one panorama lies in none, and a portal's line also starts with P."""
    lines = ["ASCII 1.1", f"H name label 0 {regions + 1} 0 0 0 0 0 {regions} 1 1  0 0 0 0 0  0 0 0 1 1 1  0 0 0 0 0"]
    lines += [f"R {k} 0 0 0 b  0 0 0  0 0 0 1 1 1  0 0 0 0 0" for k in range(regions)]
    lines += ["P 0 0 1 door  0 0 0  1 1 1  0 0 0 0"]
    lines += [f"P  pano{k} {k} {k}  0  0 0 0  0 0 0 0 0" for k in range(regions)]
    lines += [f"P  nowhere {regions} -1  0  0 0 0  0 0 0 0 0"]
    return "\n".join(lines) + "\n"


def camera_file(names: list[str]) -> str:
    lines = ["dataset matterport", f"n_images {len(names)}", "depth_directory undistorted_depth_images"]
    lines += ["color_directory undistorted_color_images", "intrinsics_matrix 50 0 32  0 50 24 0 0 1"]
    view = look_at(np.array([3.0, 1, 1]), np.zeros(3))
    pose = np.linalg.inv(view) @ np.diag([1, -1, -1, 1])
    lines += [f"scan {n.replace('_i', '_d')}.png {n}.jpg {' '.join(map(str, pose.ravel()))}" for n in names]
    return "\n".join(lines) + "\n"


def write_house(scans: Path, house: str, regions: int, seed: int, *, nested: bool = False) -> dict[str, Region]:
    """A house with `regions` regions; scene id -> truth. nested: as archives unpacked in the house's own folder lie."""
    folder = scans / house / house if nested else scans / house
    made = {f"{house}_{k:02d}": tiny_region(seed + k) for k in range(regions)}
    for k, region in enumerate(made.values()):
        write_mesh(folder / "region_segmentations" / f"region{k}.ply", region)
    whole = tiny_region(seed + 50, n=90)
    write_mesh(folder / "house_segmentations" / f"{house}.ply", whole)
    (folder / "house_segmentations" / f"{house}.house").write_text(house_file(regions))
    cameras = folder / "undistorted_camera_parameters" / f"{house}.conf"
    cameras.parent.mkdir()
    names = [f"{pano}_i{c}_0" for pano in (*(f"pano{k}" for k in range(regions)), "nowhere") for c in range(2)]
    cameras.write_text(camera_file(names))
    return made | {house: whole}


def write_release(root: Path) -> dict[str, Region]:
    """Two houses to train on, one to validate with, under `root`."""
    scans = root / "v1" / "scans"
    made = write_house(scans, "aHouse", 12, 0) | write_house(scans, "bHouse", 2, 100)
    made |= write_house(scans, "cHouse", 1, 200, nested=True)
    (root / "metadata").mkdir()
    (root / "metadata" / "category_mapping.tsv").write_text(table())
    return made


#: Houses of `write_release`; the last listed one is not there.
SPLITS = {"train": ["aHouse", "bHouse", "zHouse"], "val": ["cHouse"]}
