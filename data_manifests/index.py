"""From a data set's description (a small TOML, or a bare folder) to its manifest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pydantic import Field

from chorus_common.manifest import Manifest, ManifestRow, check_name, path_digest, resolve_under
from chorus_common.runtime.config import Config, load_config
from chorus_common.runtime.errors import ChorusError, ManifestError, one_line
from chorus_common.scene_io import FORMATS, probe
from chorus_common.scene_io.bounds import scene_name

#: Suffixes by which scenes are found in a folder that comes without a description.
_SCENE_SUFFIXES = (".ply", ".splat", ".spz", ".npy", ".npz")

#: Where cameras are looked for beside a scene that comes without a description.
_USUAL_CAMERAS = ("{scene}/transforms.json", "{scene}.transforms.json", "{scene}/sparse/0", "cameras/{scene_id}")


class DatasetDescription(Config):
    """A data set: where its scenes lie under a root folder, which cameras belong to them, what its labels mean.

    Patterns are relative to the root; `*` matches within one folder level. A scene pattern may mark the part that is
    the scene's id with {scene_id}; otherwise the id is the file's or folder's own name. Camera patterns are tried in
    turn and may use {scene} (the scene's path without suffix), {scene_id} and {split}; scenes without any get views
    chosen by stage 1.
    """

    #: Name of the data set, a plain word.
    name: str
    #: split -> pattern or patterns.
    scenes: dict[str, str | list[str]] = Field(min_length=1)
    #: Camera patterns, tried in turn.
    cameras: str | list[str] = Field(default_factory=list)
    #: Class table of the labels (chorus_common.labels), "" if there are none.
    label_space: str = ""
    #: Format that every scene must have; "" takes each as it is.
    format: str = ""
    #: split -> text file beside the description, one scene id per line; only the scenes listed are taken.
    split_lists: dict[str, str] = Field(default_factory=dict)


def build_manifest(source: str | Path, root: str | Path | None = None, *, skipped: list[str] | None = None) -> Manifest:
    """Index a data set: find its scenes, prove their headers, hash their bytes.

    Args: source: a TOML description, or a folder of scenes (with train/, val/, test/ below it, or all in one split
        "all"). root: folder that the description's patterns start from; a folder given as `source` is its own root.
        skipped: if given, bad scenes are left out and their errors appended here; otherwise the first one is raised.

    Returns:
        Manifest sorted by split pattern, then path; the same files give the same manifest.

    Raises:
        ManifestError: the description is wrong, or nothing is found.
        SceneError: a scene's header is damaged (unless `skipped` is given).
    """
    source = Path(source)
    if source.is_dir():
        root, description = source.resolve(), _describe_folder(source)
    else:
        if root is None:
            raise ManifestError(f"{source}: a description needs the folder it describes; give --root")
        description = load_config(DatasetDescription, source)
        root = Path(root).resolve()
        if not root.is_dir():
            raise ManifestError(f"{root}: no such folder; --root is where the data set lies")
    _check_description(source, description)
    lists = {split: _read_list(source, split, file) for split, file in description.split_lists.items()}
    rows: list[ManifestRow] = []
    seen: dict[str, Path] = {}
    for split, patterns in description.scenes.items():
        listed, found = lists.get(split), set()
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            for path, scene_id in matching_paths(source, root, pattern):
                if listed is not None and scene_id not in listed:
                    continue
                found.add(scene_id)
                try:
                    row = _row(root, description, split, path, scene_id)
                    if scene_id in seen:
                        raise ManifestError(f"{path}: scene id {scene_id} is already taken by {seen[scene_id]}")
                except ChorusError as error:
                    if skipped is None:
                        raise
                    skipped.append(one_line(error))
                    continue
                seen[scene_id] = path
                rows.append(row)
        if listed is not None and (missing := sorted(listed - found)):
            problem = f"{source}: {len(missing)} listed scenes of split {split} are not there, first {missing[0]}"
            if skipped is None:
                raise ManifestError(problem)
            skipped.append(problem)
    if not rows:
        raise ManifestError(f"{source}: no scenes found under {root}; check the patterns")
    return Manifest(root, tuple(rows))


def _row(root: Path, description: DatasetDescription, split: str, path: Path, scene_id: str) -> ManifestRow:
    check_name(scene_id, f"{path}: scene id")
    relative = path.relative_to(root)
    resolve_under(root, relative.as_posix())
    found = probe(path)
    if description.format and found.format != description.format:
        raise ManifestError(f"{path}: is {found.format}, but the description says {description.format}")
    cameras = None
    names = {"scene": (relative.parent / scene_name(path)).as_posix(), "scene_id": scene_id, "split": split}
    for pattern in [description.cameras] if isinstance(description.cameras, str) else description.cameras:
        candidate = resolve_under(root, _filled(pattern, names))
        if candidate.exists():
            cameras = candidate
            break
    return ManifestRow(
        description.name, scene_id, split, found.format, path, cameras, description.label_space,
        found.n_gaussians, path_digest(path),
    )  # fmt: skip


def matching_paths(source: Path | str, root: Path, pattern: str) -> Iterator[tuple[Path, str]]:
    """Paths under `root` that match, sorted, with their scene ids. Hidden names never match."""
    parts = PurePosixPath(pattern).parts
    if not parts or pattern.startswith("/") or ".." in parts or "**" in pattern or pattern.count("{scene_id}") > 1:
        raise ManifestError(
            f"{source}: pattern {pattern!r} must be relative, without '..' and '**', with {{scene_id}} once"
        )
    marked = next((i for i, part in enumerate(parts) if "{scene_id}" in part), None)
    for path in sorted(root.glob(pattern.replace("{scene_id}", "*"))):
        names = path.relative_to(root).parts
        if any(name.startswith(".") for name in names):
            continue
        if marked is None:
            yield path, scene_name(path)
            continue
        wanted = re.escape(parts[marked]).replace(re.escape("{scene_id}"), "(.+)").replace(r"\*", ".*")
        if match := re.fullmatch(wanted, names[marked]):
            yield path, match.group(1)


def _filled(pattern: str, names: dict[str, str]) -> str:
    for key, value in names.items():
        pattern = pattern.replace(f"{{{key}}}", value)
    return pattern


def _describe_folder(folder: Path) -> DatasetDescription:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip(".") or "scenes"
    splits = [split for split in ("train", "val", "test") if (folder / split).is_dir()]
    scenes: dict[str, str | list[str]] = {}
    for split in splits or ["all"]:
        base = folder / split if splits else folder
        there = sorted(
            path.name
            for path in base.iterdir()
            if not path.name.startswith(".")
            and ((path / "coord.npy").is_file() or (path.is_file() and path.suffix.lower() in _SCENE_SUFFIXES))
        )
        prefix = f"{split}/" if splits else ""
        # names may hold glob characters: each is matched literally
        scenes[split] = [prefix + re.sub(r"([*?\[])", r"[\1]", name) for name in there]
    return DatasetDescription(name=name[:128], scenes=scenes, cameras=list(_USUAL_CAMERAS))


def _check_description(source: Path, description: DatasetDescription) -> None:
    check_name(description.name, f"{source}: name")
    for split in description.scenes:
        check_name(split, f"{source}: split")
    if description.format not in ("", *FORMATS):
        raise ManifestError(f"{source}: unknown format {description.format!r}; known: {', '.join(FORMATS)}")
    if unknown := sorted(set(description.split_lists) - set(description.scenes)):
        raise ManifestError(f"{source}: split_lists names {unknown[0]}, which [scenes] does not have")


def _read_list(source: Path, split: str, file: str) -> set[str]:
    path = resolve_under(source.parent.resolve(), file)
    try:
        ids = {line.strip() for line in path.read_text(encoding="utf-8").splitlines()}
    except (OSError, UnicodeDecodeError):
        raise ManifestError(f"{source}: cannot read the list {path} of split {split}") from None
    return {scene_id for scene_id in ids if scene_id and not scene_id.startswith("#")}
