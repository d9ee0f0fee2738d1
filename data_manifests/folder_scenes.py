"""The scenes of a folder that comes without a description: files, SceneSplat and SOG folders, outputs of 3DGS training.

Names are made plain where they could not be folder names; the scene's path keeps the original.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chorus_common.camera_io.colmap import colmap_folder
from chorus_common.manifest import plain_name
from chorus_common.scene_io import is_scene_folder
from chorus_common.scene_io.bounds import scene_name

#: Suffixes of files that are scenes.
_SUFFIXES = (".ply", ".splat", ".ksplat", ".spz", ".sog", ".glb", ".gltf", ".npy", ".npz")


@dataclass(frozen=True)
class FolderScene:
    """A scene of a folder: its split, path, id and cameras (None where none lie beside it)."""

    split: str
    path: Path
    scene_id: str
    cameras: Path | None


def scenes_in_folder(root: Path) -> list[FolderScene]:
    """The scenes in train/, val/, test/ below `root`, or in `root` itself (split "all"), sorted by path.

    Two names that become the same id are told apart by a number.
    """
    splits = [split for split in ("train", "val", "test") if (root / split).is_dir()]
    if not splits and (trained := trained_model(root)) is not None:
        return [FolderScene("all", trained, plain_name(root.name), cameras_beside(root, root, alone=True))]
    found: list[FolderScene] = []
    taken: set[str] = set()
    for split in splits or ["all"]:
        base = root / split if splits else root
        scenes = list(_scenes(base))
        for path, owner in scenes:
            scene_id = _free(plain_name(scene_name(owner)), taken)
            taken.add(scene_id)
            cameras = cameras_beside(base, owner, alone=len(scenes) == 1, scene_id=scene_id, root=root)
            found.append(FolderScene(split, path, scene_id, cameras))
    return found


def _scenes(base: Path) -> Iterator[tuple[Path, Path]]:
    """(scene, the file or folder that it is named after) for every scene directly in `base`."""
    for path in sorted(base.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file():
            if path.suffix.lower() in _SUFFIXES:
                yield path, path
        elif is_scene_folder(path):
            yield path, path
        elif (trained := trained_model(path)) is not None:
            yield trained, path


def trained_model(folder: Path) -> Path | None:
    """The Gaussians of the last iteration in an output folder of 3DGS training; None where it is none."""
    found = []
    for path in (folder / "point_cloud").glob("iteration_*/point_cloud.ply"):
        if match := re.fullmatch(r"iteration_(\d+)", path.parent.name):
            found.append((int(match.group(1)), path))
    return max(found)[1] if found else None


def cameras_beside(
    base: Path, owner: Path, *, alone: bool, scene_id: str = "", root: Path | None = None
) -> Path | None:
    """Cameras of the scene `owner` (a file or folder in `base`): inside it, under its name, or, where it is the only
    scene of its folder, beside it.
    """
    stem = owner.parent / scene_name(owner)
    places = [stem, owner] if owner.is_dir() else [stem]
    candidates = [place / name for place in places for name in ("transforms.json", "cameras.json")]
    candidates += [stem.with_name(f"{stem.name}.{name}") for name in ("transforms.json", "cameras.json")]
    if root is not None:
        candidates += [root / "cameras" / scene_id, root / "cameras" / f"{scene_id}.json"]
    if alone:
        candidates += [base / "transforms.json", base / "cameras.json"]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    for place in [*places, *([base] if alone else [])]:
        if place.is_dir() and colmap_folder(place) is not None:
            return colmap_folder(place)
    return None


def _free(name: str, taken: set[str]) -> str:
    """`name`, with a number behind it if it is taken."""
    number, free = 2, name
    while free in taken:
        free, number = f"{name[:120]}-{number}", number + 1
    return free
