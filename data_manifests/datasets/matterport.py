"""Matterport3D in its release layout: the annotated mesh of a region (or of a house) -> its vertices with labels.

    v1/scans/<house>/region_segmentations/region<k>.ply            mesh with vertex colours, a category_id per face
                                          region<k>.fsegs.json     segIndices: a segment per face
                                          region<k>.semseg.json    segGroups: objects with their segments
                     house_segmentations/<house>.ply, .fsegs.json, .semseg.json    the same of the whole house
                                          <house>.house            which panorama was taken in which region
                     undistorted_camera_parameters/<house>.conf    cameras
    metadata/category_mapping.tsv                                  from category_id to the classes of label spaces

The labels are on faces. A vertex takes what most of its faces have, which is OpenScene's rule and by it SceneSplat's;
objects are voted on in the same way, each on its own. Sources: niessner/Matterport data_organization.md; OpenScene
scripts/preprocess/preprocess_3d_matterport.py and ..._K_num_classes.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from chorus_common.camera_io.read import read_views
from chorus_common.camera_io.view import camera_set
from chorus_common.cameras import CameraSet
from chorus_common.manifest import check_name
from chorus_common.runtime.errors import SceneError, one_line
from chorus_common.scene_io.bounds import fail
from data_manifests.datasets.face_votes import vertex_majority
from data_manifests.datasets.find import Found, note_missing, read_split_lists
from data_manifests.datasets.matterport_labels import MATTERPORT_SPACES, CategoryTable, read_category_table
from data_manifests.datasets.mesh import Faces, read_faces, read_mesh
from data_manifests.datasets.raw_scene import Annotations, LabelledPoints, RawScene, SceneSource
from data_manifests.datasets.segment_files import last_owners, read_groups, read_segment_indices
from data_manifests.datasets.settings import MatterportRelease

_REGION = re.compile(r"region(\d{1,4})\.ply")
#: Words of a panorama's line in a .house file; a portal's line also starts with P and has 15.
_PANORAMA_WORDS = 13


def find_matterport(release: MatterportRelease, root: Path, wanted: list[str]) -> Found:
    """The regions (or houses) of the listed houses that are there."""
    lists, found = read_split_lists(release.split_lists, root), Found()
    folder = root / release.folder
    for split, ids in lists.items():
        if wanted and split not in wanted:
            continue
        there = [house for house in ids if (folder / house).is_dir()]
        note_missing(found, split, [house for house in ids if house not in there])
        for house in there:
            path = folder / check_name(house, f"{folder}: house")
            meshes = list(_meshes(path, release.unit))
            if not meshes:
                found.notes.append(f"{house}: has no mesh in {_part(path, f'{release.unit}_segmentations')}")
            for scene_id, mesh in meshes:
                files = (mesh, _segments(mesh), _objects(mesh), root / release.label_table, _house_file(path))
                found.scenes.append(SceneSource(scene_id, split, mesh, (*files, _camera_file(path))))
    return found


def read_matterport_scene(
    source: SceneSource, root: Path, release: MatterportRelease, label_spaces: list[str]
) -> RawScene:
    """One region or house: all vertices of its mesh in its order and frame. Raises SceneError, one line, where a file
    is missing or damaged, or segments or categories do not fit the mesh.
    """
    for name in label_spaces:
        if name not in MATTERPORT_SPACES:
            fail(source.path, f"Matterport3D has no labels in {name}, only in {', '.join(MATTERPORT_SPACES)}")
    coord, color, normal = read_mesh(source.path)
    faces = read_faces(source.path, len(coord), ("category_id",))
    notes: list[str] = []
    table = read_category_table(root / release.label_table)
    truth = _annotations(source.path, len(coord), faces, table, label_spaces, notes)
    cameras = _cameras(root / release.folder / _house_of(source.path), source.path, release.unit, notes)
    return RawScene(LabelledPoints(coord, color, normal, truth), cameras=cameras, notes=tuple(notes))


def _part(house: Path, name: str) -> Path:
    """A part of a house's data: archives of the release unpack to <part> or, in the house's folder, <house>/<part>."""
    nested = house / house.name / name
    return nested if nested.is_dir() and not (house / name).is_dir() else house / name


def _meshes(house: Path, unit: str) -> Iterator[tuple[str, Path]]:
    """(scene id, mesh) of what a house holds, regions by their number."""
    if unit == "house":
        mesh = _part(house, "house_segmentations") / f"{house.name}.ply"
        if mesh.is_file():
            yield house.name, mesh
        return
    folder = _part(house, "region_segmentations")
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    numbers = {int(match.group(1)): name for name in names if (match := _REGION.fullmatch(name))}
    for number, name in sorted(numbers.items()):
        yield f"{house.name}_{number:02d}", folder / name


def _house_of(mesh: Path) -> str:
    """The house that a mesh <house>/<part>/<mesh>.ply belongs to."""
    return mesh.parent.parent.name


def _segments(mesh: Path) -> Path:
    return mesh.with_suffix(".fsegs.json")


def _objects(mesh: Path) -> Path:
    return mesh.with_suffix(".semseg.json")


def _house_file(house: Path) -> Path:
    return _part(house, "house_segmentations") / f"{house.name}.house"


def _camera_file(house: Path) -> Path:
    return _part(house, "undistorted_camera_parameters") / f"{house.name}.conf"


def _annotations(
    mesh: Path, n: int, faces: Faces, table: CategoryTable, label_spaces: list[str], notes: list[str]
) -> Annotations:
    """Labels and instances of the `n` vertices of a mesh."""
    category = np.maximum(faces.columns["category_id"], 0)  # [F]; -1 and 0 mean that nobody annotated the face
    if (top := int(category.max(initial=0))) > len(table):
        fail(mesh, f"a face has category {top}, but {table.path.name} ends at {len(table)}")
    labels = {
        name: vertex_majority(faces.corners, table.labels(name)[category], n).astype(np.int16) for name in label_spaces
    }
    annotated = vertex_majority(faces.corners, np.where(category > 0, 0, -1), n) >= 0
    position, ids = _object_of_faces(mesh, len(faces.corners), notes)
    instance = ids[vertex_majority(faces.corners, position, n)]
    return Annotations(labels, instance, annotated)


def _object_of_faces(mesh: Path, n_faces: int, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Per face the position of its object, -1 for none; and the object's id at each position, -1 at the last."""
    segment_ids, segment_of = np.unique(read_segment_indices(_segments(mesh), n_faces, "faces"), return_inverse=True)
    groups = read_groups(_objects(mesh))
    owner = last_owners(_objects(mesh), groups, segment_ids, notes)
    return owner[segment_of], np.array([*(group.object_id for group in groups), -1], np.int32)


def _cameras(house: Path, mesh: Path, unit: str, notes: list[str]) -> CameraSet | None:
    """The undistorted cameras of a house, of a region those of the panoramas that were taken in it. None, with a note,
    where they cannot be had: points and labels do not depend on them.
    """
    file = _camera_file(house)
    if not file.is_file():
        return None
    try:
        views = read_views(file)[1]
        if unit == "region":
            within = _panoramas(_house_file(house)).get(int(mesh.stem.removeprefix("region")), frozenset())
            views = [view for view in views if view.name.partition("_")[0] in within]
            if not views:
                notes.append("no cameras: no panorama was taken in this region")
                return None
        return camera_set(file, views)
    except SceneError as error:
        notes.append(f"no cameras: {one_line(error).removeprefix(f'{house}/')}")
        return None


@lru_cache(maxsize=4)
def _panoramas(file: Path) -> dict[int, frozenset[str]]:
    """Region -> names of the panoramas that were taken in it. Raises SceneError where the file tells none."""
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        raise SceneError(f"{file}: no such file; it tells which panorama was taken in which region") from None
    found: dict[int, set[str]] = {}
    for number, words in enumerate(lines, start=1):
        if words[:1] == ["P"] and len(words) == _PANORAMA_WORDS:
            if not re.fullmatch(r"-?\d{1,9}", words[3]):
                raise SceneError(f"{file}: line {number}: {words[3][:20]!r} is not the number of a region")
            found.setdefault(int(words[3]), set()).add(words[1])
    if not found:
        raise SceneError(f"{file}: lists no panoramas; is it a .house file?")
    return {region: frozenset(names) for region, names in found.items()}
