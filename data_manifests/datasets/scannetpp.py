"""ScanNet++ in its release layout: mesh, over-segmentation and objects of a scene -> its vertices with labels.

    data/<id>/scans/mesh_aligned_0.05.ply     mesh with vertex colours (the points that the benchmark scores)
                    segments.json             segIndices: a segment per vertex
                    segments_anno.json        segGroups: objects with their class and segments
              dslr/colmap/                    cameras
    splits/nvs_sem_train.txt, nvs_sem_val.txt
    metadata/semantic_benchmark/map_benchmark.csv    from the classes that annotators typed to those of the benchmark

Objects overlap there: a cushion is also part of its sofa. A vertex takes the smallest object that it is in, which is
the benchmark's rule for one label per vertex. Source: ScanNet++ toolbox (semantic/prep, filter_map_classes); Pointcept
preprocess_scannetpp.py has the same vertices in the same order.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from chorus_common.camera_io import read_cameras
from chorus_common.cameras import CameraSet
from chorus_common.labels import SPACES
from chorus_common.manifest import check_name
from chorus_common.runtime.errors import SceneError, one_line
from chorus_common.scene_io.bounds import fail
from data_manifests.datasets.find import Found, note_missing, read_split_lists
from data_manifests.datasets.mesh import read_mesh
from data_manifests.datasets.raw_scene import Annotations, LabelledPoints, RawScene, SceneSource
from data_manifests.datasets.segment_files import Group, read_groups, read_segment_indices
from data_manifests.datasets.settings import ScannetppRelease

#: The label space of the benchmark.
SPACE = "scannetpp100"
#: What the table writes where a class counts as nothing.
_NOTHING = "None"


def find_scannetpp(release: ScannetppRelease, root: Path, wanted: list[str]) -> Found:
    """The listed scenes that are there."""
    lists, found = read_split_lists(release.split_lists, root), Found()
    for split, ids in lists.items():
        if wanted and split not in wanted:
            continue
        folder = root / release.folders.get(split, "data")
        there = {scene_id for scene_id in ids if (folder / scene_id).is_dir()}
        note_missing(found, split, [scene_id for scene_id in ids if scene_id not in there])
        for scene_id in sorted(there):
            path = folder / check_name(scene_id, f"{folder}: scene id")
            files = [_mesh(path), path / "dslr" / "colmap"]
            if split not in release.unlabelled:
                files += [_segments(path), _objects(path), root / release.label_table]
            found.scenes.append(SceneSource(scene_id, split, path, tuple(files)))
    return found


def read_scannetpp_scene(
    source: SceneSource, root: Path, release: ScannetppRelease, label_spaces: list[str]
) -> RawScene:
    """One scene: all vertices of the mesh in its order and frame. Raises SceneError, one line, where a file is missing
    or damaged, or the segments do not fit the mesh.
    """
    coord, color, normal = read_mesh(_mesh(source.path))
    notes = [] if normal is not None else ["normals estimated: the mesh has no plain triangles"]
    truth = Annotations()
    if source.split not in release.unlabelled:
        for name in label_spaces:
            if name != SPACE:
                fail(source.path, f"ScanNet++ has no labels in {name}, only in {SPACE}")
        truth = _annotations(source.path, len(coord), read_class_map(root / release.label_table), label_spaces, notes)
    return RawScene(
        LabelledPoints(coord, color, normal, truth), cameras=_cameras(source.path, notes), notes=tuple(notes)
    )


def _mesh(scene: Path) -> Path:
    return scene / "scans" / "mesh_aligned_0.05.ply"


def _segments(scene: Path) -> Path:
    return scene / "scans" / "segments.json"


def _objects(scene: Path) -> Path:
    return scene / "scans" / "segments_anno.json"


def _cameras(scene: Path, notes: list[str]) -> CameraSet | None:
    """The DSLR's cameras; None, with a note, where they cannot be read: points and labels do not depend on them."""
    folder = scene / "dslr" / "colmap"
    if not folder.is_dir():
        return None
    try:
        return read_cameras(folder)
    except SceneError as error:
        notes.append(f"no cameras: {one_line(error).removeprefix(f'{scene}/')}")
        return None


@lru_cache(maxsize=4)
def read_class_map(path: Path) -> Mapping[str, str]:
    """Annotators' class -> class of the benchmark, "" for nothing. Raises SceneError where the table is none."""
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
    except OSError:
        raise SceneError(f"{path}: no such table of classes; it belongs to the ScanNet++ release") from None
    except (UnicodeDecodeError, csv.Error):
        raise SceneError(f"{path}: is not a table of classes") from None
    if not rows or not {"class", "semantic_map_to"} <= set(rows[0]):
        raise SceneError(f"{path}: has no columns class and semantic_map_to; is it map_benchmark.csv?")
    found: dict[str, str] = {}
    for row in rows:
        target = row["semantic_map_to"] or row["class"]  # no target: the class stays what it is
        found.setdefault(row["class"], "" if target == _NOTHING else target)
    return found


def _annotations(
    scene: Path, n: int, class_map: Mapping[str, str], label_spaces: list[str], notes: list[str]
) -> Annotations:
    """Labels and instances of the `n` vertices of a scene."""
    segment_ids, segment_of, sizes = np.unique(
        read_segment_indices(_segments(scene), n), return_inverse=True, return_counts=True
    )
    groups = read_groups(_objects(scene))
    owner, smallest = np.full(len(segment_ids), -1, np.int64), np.full(len(segment_ids), np.inf)
    absent = shared = 0
    for position, group in enumerate(groups):
        rows, unknown = group.rows(segment_ids)
        absent += unknown
        shared += int(np.count_nonzero(owner[rows] >= 0))
        size = float(sizes[rows].sum())
        rows = rows[size < smallest[rows]]
        owner[rows], smallest[rows] = position, size
    if absent and (owner < 0).all():
        fail(_objects(scene), "names no segment of the mesh; does it belong to another scene?")
    if absent:
        notes.append(f"{absent} segments of objects are not in the mesh")
    if shared:
        notes.append(f"{shared} segments belong to several objects; the smallest owns them")
    vertex_owner = owner[segment_of]  # [n]
    index = {name: k for k, name in enumerate(SPACES[SPACE].names)}
    of_group = [_label(group, class_map, index) for group in groups]
    instance = np.array([*(group.object_id for group in groups), -1], np.int32)[vertex_owner]
    labels = np.array([*of_group, -1], np.int16)[vertex_owner]
    return Annotations(dict.fromkeys(label_spaces, labels), instance, vertex_owner >= 0)


def _label(group: Group, class_map: Mapping[str, str], index: Mapping[str, int]) -> int:
    """Class index of an object; a class that the table does not know counts under its own name."""
    return index.get(class_map.get(group.label, group.label), -1)
