"""The scenes of a folder of folders, for an import without a manifest."""

from __future__ import annotations

from pathlib import Path

from chorus_common.manifest import ManifestRow, path_digest, plain_name
from chorus_common.runtime.errors import SceneError
from chorus_common.runtime.progress import progress
from chorus_common.scene_io import probe
from stage1_render_teachers.exchange.feature_files import stems_of

#: How many folders deep scenes lie: <split>/<scene>, or <data set>/<split>/<scene>.
_DEPTH = 3


def folder_rows(root: Path, dataset: str | None = None) -> list[ManifestRow]:
    """A row per folder at or below `root` that has features beside its Gaussians, sorted by place.

    The data set is `dataset`, or called like `root`; a split like the folder above the scene, "train" where that is
    `root` itself. Every byte is read for the checksums. Raises SceneError where there is no such folder, or two have
    one name.
    """
    if not root.is_dir():
        raise SceneError(f"{root}: no such folder")
    found = sorted(path for path in _folders(root.resolve(), _DEPTH) if stems_of(path))
    if not found:
        raise SceneError(f"{root}: holds no folder with coord.npy and <name>_feat.npy, {_DEPTH} folders deep")
    rows: dict[str, ManifestRow] = {}
    with progress(len(found), "checksums") as report:
        for path in found:
            scene_id = plain_name(path.name)
            if scene_id in rows:
                raise SceneError(
                    f"{path}: is called like {rows[scene_id].scene_path}; import them one by one with --dataset"
                )
            split = "train" if path.parent == root.resolve() or path == root.resolve() else plain_name(path.parent.name)
            seen = probe(path)
            name, digest = plain_name(dataset or root.resolve().name), path_digest(path)
            rows[scene_id] = ManifestRow(
                name, scene_id, split, seen.format, path, None, "", seen.n_gaussians, digest
            )  # fmt: skip
            report.advance()
    return list(rows.values())


def _folders(folder: Path, depth: int) -> list[Path]:
    """Scene folders at or below `folder`."""
    if (folder / "coord.npy").is_file():
        return [folder]
    if depth == 0:
        return []
    below = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return [scene for path in below for scene in _folders(path, depth - 1)]
