"""Which scenes a release holds and which split each belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from chorus_common.manifest import check_name
from chorus_common.runtime.errors import ManifestError
from data_manifests.datasets.raw_scene import SceneSource
from data_manifests.datasets.settings import SceneIds, SplitLists
from data_manifests.index import matching_paths


@dataclass
class Found:
    """Scenes in a fixed order, and what was noticed on the way, one line each."""

    scenes: list[SceneSource] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_split_lists(lists: SplitLists, root: Path) -> dict[str, tuple[str, ...]]:
    """split -> scene ids. A list named by a file is the release's own where the release has it under `root`, else the
    one checked in with the program.

    Raises ManifestError: a list is in neither place, or two splits share a scene.
    """
    read = {split: _list(given, root) if isinstance(given, str) else tuple(given) for split, given in lists.items()}
    owner: dict[str, str] = {}
    for split, ids in read.items():
        for scene_id in ids:
            if owner.setdefault(scene_id, split) != split:
                raise ManifestError(f"scene {scene_id} is in the lists of both {owner[scene_id]} and {split}")
    return read


def _list(name: str, root: Path) -> tuple[str, ...]:
    own, checked_in = root / name, files("data_manifests").joinpath("splits", name)
    if own.is_file():
        text = own.read_text(encoding="utf-8", errors="replace")
    elif "/" not in name and checked_in.is_file():
        text = checked_in.read_text(encoding="utf-8")
    else:
        raise ManifestError(f"{own}: no such split list, and none of that name comes with the program")
    return tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))


def find_by_pattern(
    scenes: dict[str, str], lists: SplitLists, root: Path, wanted: list[str], ids: SceneIds = "name"
) -> Found:
    """Scenes whose paths match the pattern of their split; with a list, only those on it, in the paths' order.

    ids: a scene is called by its own name, or by its whole path below the root ("Area_1/office_1" -> Area_1_office_1).
    `files` of the sources are the paths themselves. Raises ManifestError for a bad pattern, name or list.
    """
    listed, found = read_split_lists(lists, root), Found()
    for split, pattern in scenes.items():
        if wanted and split not in wanted:
            continue
        check_name(split, "release.scenes: split")
        there: dict[str, Path] = {}
        for path, name in matching_paths("release.scenes", root, pattern):
            scene_id = name if ids == "name" else "_".join(path.relative_to(root).parts)
            if scene_id in there:
                raise ManifestError(f"{path}: scene id {scene_id} is already taken by {there[scene_id]}")
            there[scene_id] = path
        take = [scene_id for scene_id in there if split not in listed or scene_id in set(listed[split])]
        if split in listed:
            note_missing(found, split, [scene_id for scene_id in listed[split] if scene_id not in there])
        for scene_id in take:
            path = there[scene_id]
            found.scenes.append(SceneSource(check_name(scene_id, f"{path}: scene id"), split, path, (path,)))
    return found


def note_missing(found: Found, split: str, missing: list[str]) -> None:
    """Say which scenes of a split's list the release does not have."""
    if missing:
        more = "" if len(missing) == 1 else f" and {len(missing) - 1} more"
        found.notes.append(f"split {split}: listed scene {missing[0]}{more} not in the release")
