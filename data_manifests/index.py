"""From a data set's description (a small TOML, or a bare folder) to its manifest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pydantic import Field

from chorus_common.manifest import Manifest, ManifestRow, check_name, path_digest, plain_name, resolve_under
from chorus_common.runtime.config import Config, load_config
from chorus_common.runtime.errors import ChorusError, ManifestError, one_line
from chorus_common.scene_check.settings import AlignmentSettings, alignment_settings
from chorus_common.scene_io import FORMATS, MAX_GAUSSIANS, Probe, probe
from chorus_common.scene_io.bounds import check_count, scene_name
from data_manifests.folder_scenes import scenes_in_folder


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
    #: Upward direction of the files: auto (as each scene tells), off, an axis such as -y, or x,y,z.
    up: str = "auto"
    #: Metres per unit of the files: auto, off, or a number.
    scale: str = "auto"
    #: Gaussians apart from all others: auto (left out), off, or the gap in metres.
    outliers: str = "auto"
    #: Level of streamed scenes, 0 the finest.
    lod: int = Field(default=0, ge=0)
    #: split -> text file beside the description, one scene id per line; only the scenes listed are taken.
    split_lists: dict[str, str] = Field(default_factory=dict)


def build_manifest(
    source: str | Path,
    root: str | Path | None = None,
    *,
    skipped: list[str] | None = None,
    max_gaussians: int | None = None,
    lod: int | None = None,
    alignment: AlignmentSettings | None = None,
) -> Manifest:
    """Index a data set: find its scenes, prove their headers, hash their bytes.

    Args: source: a TOML description, or a folder of scenes (with train/, val/, test/ below it, or all in one split
        "all"). root: folder that the description's patterns start from; a folder given as `source` is its own root.
        skipped: if given, bad scenes are left out and their errors appended here; otherwise the first one is raised.
        max_gaussians: larger scenes are bad (None: than 20 million); those that are listed will be read. lod: level of
        streamed scenes, alignment: how scenes are brought in order; both win over the description.

    Returns:
        Manifest sorted by split pattern, then path; the same files give the same manifest.

    Raises:
        ManifestError: the description is wrong, or nothing is found.
        SceneError: a scene's header is damaged (unless `skipped` is given).
    """
    source = Path(source)
    limits = _Limits(max_gaussians or MAX_GAUSSIANS, lod or 0, alignment or AlignmentSettings())
    if source.is_dir():
        return _folder_manifest(source.resolve(), limits, skipped)
    if not source.is_file():
        raise ManifestError(f"{source}: no such file or folder; give a description or a folder of scenes")
    if root is None:
        raise ManifestError(f"{source}: a description needs the folder it describes; give --root")
    description = load_config(DatasetDescription, source)
    root = Path(root).resolve()
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder; --root is where the data set lies")
    _check_description(source, description)
    told = alignment_settings(description.up, description.scale, description.outliers)
    limits = replace(limits, lod=description.lod if lod is None else lod, alignment=limits.alignment.or_else(told))
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
                    scene_id = plain_name(scene_id)
                    row = _row(root, description, split, path, scene_id, limits)
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


@dataclass(frozen=True)
class _Limits:
    """max_gaussians: larger scenes are refused. lod: level of streamed scenes. alignment: what is told of scenes."""

    max_gaussians: int
    lod: int
    alignment: AlignmentSettings


def _folder_manifest(root: Path, limits: _Limits, skipped: list[str] | None) -> Manifest:
    """Manifest of a folder without a description."""
    rows = []
    for scene in scenes_in_folder(root):
        try:
            resolve_under(root, scene.path.relative_to(root).as_posix())
            found = _probed(scene.path, limits)
            rows.append(
                ManifestRow(
                    plain_name(root.name), scene.scene_id, scene.split, found.format, scene.path, scene.cameras, "",
                    found.n_gaussians, path_digest(scene.path), _level(found, limits), found.render_mode.value,
                    **limits.alignment.model_dump(),
                )
            )  # fmt: skip
        except ChorusError as error:
            if skipped is None:
                raise
            skipped.append(one_line(error))
    if not rows:
        raise ManifestError(f"{root}: no scenes found in it, nor in train/, val/ and test/ below it")
    return Manifest(root, tuple(rows))


def _probed(path: Path, limits: _Limits) -> Probe:
    """What the headers at `path` say, within the limits."""
    found = probe(path, lod=limits.lod)
    check_count(path, found.n_gaussians, limits.max_gaussians)
    return found


def _level(found: Probe, limits: _Limits) -> int:
    return limits.lod if found.format == "sog-lod" else 0


def _row(
    root: Path, description: DatasetDescription, split: str, path: Path, scene_id: str, limits: _Limits
) -> ManifestRow:
    check_name(scene_id, f"{path}: scene id")
    relative = path.relative_to(root)
    resolve_under(root, relative.as_posix())
    found = _probed(path, limits)
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
        found.n_gaussians, path_digest(path), _level(found, limits), found.render_mode.value,
        **limits.alignment.model_dump(),
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
