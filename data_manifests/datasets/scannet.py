"""ScanNet in its release layout: mesh, over-segmentation and objects of a scan -> its vertices with labels.

    scans/<id>/<id>_vh_clean_2.ply                    mesh with vertex colours (the points that the benchmark scores)
               <id>_vh_clean_2.0.010000.segs.json     segIndices: a segment per vertex
               <id>.aggregation.json                  segGroups: objects with their raw category and segments
               pose/, intrinsic/                      cameras, once exported from the .sens file
    scans_test/<id>/...                               the same without segments and objects

Source: ScanNet/ScanNet README and BenchmarkScripts/3d_helpers; Pointcept preprocess_scannet.py keeps the same vertices
in the same order and frame (no axis alignment).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.camera_io import read_cameras
from chorus_common.cameras import CameraSet
from chorus_common.labels import SPACES
from chorus_common.manifest import check_name
from chorus_common.runtime.errors import ManifestError, SceneError, one_line
from chorus_common.scene_io.bounds import fail
from data_manifests.datasets.find import Found, note_missing, read_split_lists
from data_manifests.datasets.mesh import read_mesh
from data_manifests.datasets.raw_scene import Annotations, LabelledPoints, RawScene, SceneSource
from data_manifests.datasets.scannet_labels import LabelTable, read_label_table
from data_manifests.datasets.segment_files import last_owners, read_groups, read_segment_indices
from data_manifests.datasets.settings import ScannetRelease


def find_scannet(release: ScannetRelease, root: Path, wanted: list[str]) -> Found:
    """The listed scans that are there. Raises ManifestError where a split has a folder but no list."""
    lists, found = read_split_lists(release.split_lists, root), Found()
    listed = {scene_id for ids in lists.values() for scene_id in ids}
    for folder in sorted(set(release.folders.values())):
        others = [p.name for p in (root / folder).glob("scene*") if p.is_dir() and p.name not in listed]
        if others:
            found.notes.append(f"{folder}: {len(others)} scans are in no split list, first {min(others)}; left out")
    for split, folder in release.folders.items():
        if wanted and split not in wanted:
            continue
        if split not in lists:
            raise ManifestError(f"release.split_lists: split {split} has no list")
        there = {scene_id for scene_id in lists[split] if (root / folder / scene_id).is_dir()}
        note_missing(found, split, [scene_id for scene_id in lists[split] if scene_id not in there])
        for scene_id in sorted(there):
            path = root / folder / check_name(scene_id, f"{root / folder}: scene id")
            files = [_mesh(path)]
            if split not in release.unlabelled:
                files += [_segments(path), _objects(path), root / release.label_table]
            found.scenes.append(SceneSource(scene_id, split, path, (*files, path / "pose")))
    return found


def read_scannet_scan(source: SceneSource, root: Path, release: ScannetRelease, label_spaces: list[str]) -> RawScene:
    """One scan: all vertices of the mesh in its order and frame.

    An object's id is its objectId; of two objects that share a segment the later one owns it. Raises SceneError, one
    line, where a file is missing or damaged, the segments do not fit the mesh, or a category is unknown.
    """
    coord, color, normal = read_mesh(_mesh(source.path))
    notes = [] if normal is not None else ["normals estimated: the mesh has no plain triangles"]
    truth = Annotations()
    if source.split not in release.unlabelled:
        table = read_label_table(root / release.label_table)
        truth = _annotations(source.path, len(coord), table, release, label_spaces, notes)
    cameras = _cameras(source.path, notes)
    return RawScene(LabelledPoints(coord, color, normal, truth), cameras=cameras, notes=tuple(notes))


def _cameras(scan: Path, notes: list[str]) -> CameraSet | None:
    """The exported cameras of a scan; None, with a note, where they are missing or cannot be read: points and labels
    do not depend on them.
    """
    if not (scan / "pose").is_dir():
        return None
    try:
        return read_cameras(scan)
    except SceneError as error:
        notes.append(f"no cameras: {one_line(error).removeprefix(f'{scan}/')}")
        return None


def _mesh(scan: Path) -> Path:
    return scan / f"{scan.name}_vh_clean_2.ply"


def _segments(scan: Path) -> Path:
    return scan / f"{scan.name}_vh_clean_2.0.010000.segs.json"


def _objects(scan: Path) -> Path:
    return scan / f"{scan.name}.aggregation.json"


def _annotations(
    scan: Path, n: int, table: LabelTable, release: ScannetRelease, label_spaces: list[str], notes: list[str]
) -> Annotations:
    """Labels and instances of the `n` vertices of a scan."""
    segment_ids, segment_of = np.unique(read_segment_indices(_segments(scan), n), return_inverse=True)
    groups = read_groups(_objects(scan))
    owner = last_owners(_objects(scan), groups, segment_ids, notes)
    unknown = sorted({group.label for group in groups if group.label not in table})
    if unknown and release.unknown_category == "fail":
        fail(
            _objects(scan),
            f"category {unknown[0]!r} is not in {table.path.name}; is the table the release's? "
            "(release.unknown_category=ignore reads it as unlabelled)",
        )
    if unknown:
        notes.append(f"{len(unknown)} categories are not in {table.path.name}, first {unknown[0]!r}; read as no class")
    vertex_owner = owner[segment_of]  # [n]
    segments_out: dict[str, NDArray[np.int16]] = {}
    for name in label_spaces:
        space = SPACES[name]
        if not space.table_column:
            fail(scan, f"ScanNet has no labels in {name}")
        of_group = [table.label(group.label, space) if group.label in table else -1 for group in groups]
        segments_out[name] = np.array([*of_group, -1], np.int16)[vertex_owner]
    instance = np.array([*(group.object_id for group in groups), -1], np.int32)[vertex_owner]
    return Annotations(segments_out, instance, vertex_owner >= 0)
