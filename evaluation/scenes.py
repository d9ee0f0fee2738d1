"""Which scenes an evaluation looks at: the scenes of a manifest's split, from the cache or straight from their source
files, and those that had to be left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import SceneCache, published_scenes
from chorus_common.cache.files import is_published, open_files
from chorus_common.cache.schema import FILES
from chorus_common.camera_io import read_cameras
from chorus_common.cameras import CameraSet
from chorus_common.labels import LABEL_SPACES
from chorus_common.lifting import morton_order
from chorus_common.manifest import ManifestRow, read_placed
from chorus_common.runtime.bucket import BucketPath
from chorus_common.runtime.errors import CacheError, ConfigError, ManifestError, SceneError, one_line
from chorus_common.runtime.store_path import StorePath, local_copy, local_folder
from chorus_common.scene import GaussianScene
from chorus_common.scene_check import Alignment, AlignmentSettings, align_scene
from chorus_common.scene_io import MAX_GAUSSIANS, read_scene
from chorus_common.scene_io.npy_folder import names_label_space, scene_files


@dataclass(frozen=True)
class EvalScene:
    """A scene to evaluate: its cache, if there is a store, and its source, if a manifest names it.

    label_space: what the manifest says of the source's labels; the cache has its own word. sha256: what the manifest
    says of the bytes of a source in a bucket.
    alignment: how a source without a cache is brought to z up and metres; a cache was made from an aligned scene.
    """

    dataset: str
    scene_id: str
    store: StorePath | None = None
    source: StorePath | None = None
    label_space: str = ""
    cameras: StorePath | None = None
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    lod: int = 0
    max_gaussians: int = MAX_GAUSSIANS
    sha256: str = ""

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.scene_id}"

    @property
    def path(self) -> StorePath:
        """The scene's cache. Raises CacheError where the evaluation was given no store."""
        if self.store is None:
            raise CacheError(f"{self.name}: this needs the teacher cache; give --store")
        return self.store / self.dataset / f"{self.scene_id}.zarr"

    def state(self) -> str:
        """SHA-256 over the files that the scene is read from: the cache's list of checksums; names, sizes and times of
        the source's, of one in a bucket what the manifest says of it. Where they lie does not count: a data set may be
        moved.
        """
        digest = hashlib.sha256()
        if self.store is not None:
            with contextlib.suppress(CacheError, FileNotFoundError):  # reading the scene will say what is wrong with it
                digest.update(open_files(self.path).read(FILES))
        watched: list[Path] = []
        if isinstance(self.source, BucketPath):
            digest.update(self.sha256.encode())
        elif self.source is not None:
            watched = sorted(self.source.glob("*")) if self.source.is_dir() else [self.source]
        stats = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in watched if p.is_file()]
        digest.update(json.dumps([stats, self.lod, self.alignment.model_dump()]).encode())
        return digest.hexdigest()

    def open(self) -> SceneCache:
        """The scene's cache; CacheError where it is damaged."""
        return SceneCache.open(self.path)

    def load(self, label_space: str = "") -> LoadedScene:
        """The scene in memory, from its cache or, without a store, from its source.

        label_space: take labels of this space (from the source where the cache holds another); "" = the scene's own.
        Raises CacheError or SceneError naming what cannot be read.
        """
        if self.store is not None:
            cache = self.open()
            gaussians = cache.scene()
            if label_space and gaussians.label_space != label_space:
                gaussians = replace(gaussians, **_other_labels(self, gaussians, label_space))
            found = cache.attributes.alignment
            return LoadedScene(self, gaussians, cache, Alignment.from_quat(found.quat, found.scale))
        aligned = align_scene(self.read_source(label_space), self.alignment, self._cameras())
        for finding in aligned.findings:
            if finding.severity in ("note", "warning"):
                click.echo(f"{self.name}: {finding.line()}", err=True)
        # The cache's order: what is computed does not depend on the order of the rows in the file.
        gaussians = aligned.scene.select(morton_order(aligned.scene.means))
        return LoadedScene(self, gaussians, None, aligned.alignment)

    def _cameras(self) -> CameraSet | None:
        """The cameras of the source, where the manifest names some that can be read."""
        if self.cameras is None:
            return None
        try:
            with local_copy(self.cameras) as cameras:
                return read_cameras(cameras)
        except (SceneError, FileNotFoundError):
            return None

    @contextlib.contextmanager
    def source_files(self, wanted: Sequence[Sequence[str]]) -> Iterator[Path]:
        """The source on this machine: itself, or a copy of one that lies in a bucket, of a folder with the files
        `wanted` alone (see `local_folder`). Raises SceneError where there is none.
        """
        assert self.source is not None, "a scene has a store or a source"
        try:
            alone = isinstance(self.source, BucketPath) and self.source.is_file()
            with local_copy(self.source) if alone else local_folder(self.source, wanted) as here:
                yield here
        except FileNotFoundError as error:
            if isinstance(self.source, Path):
                raise
            raise SceneError(f"{self.source}: no such file or folder ({one_line(error)})") from None

    def read_source(self, label_space: str = "") -> GaussianScene:
        """The source with labels of `label_space` ("" = the manifest's word); without labels where it has none of them:
        those of a file that names no space are of the manifest's.
        """
        space = label_space or self.label_space
        other = label_space and self.label_space and label_space != self.label_space
        with self.source_files(scene_files(space)) as here:
            try:
                gaussians = read_scene(here, label_space=space, lod=self.lod, max_gaussians=self.max_gaussians)
            except SceneError as error:
                raise SceneError(str(error).replace(str(here), str(self.source))) from None
            if other and not names_label_space(here, label_space):
                return replace(gaussians, labels=None, label_space="")
        return gaussians


@dataclass(frozen=True, eq=False)
class LoadedScene:
    """A scene in memory. `gaussians` are in Morton order, like everything in a cache; `cache` is None where the scene
    was read from its source. variant: "", or the folder of features for a scene that was changed. alignment: from the
    file's frame to that of `gaussians`.
    """

    where: EvalScene
    gaussians: GaussianScene
    cache: SceneCache | None
    alignment: Alignment = field(default_factory=Alignment)
    variant: str = ""

    @property
    def name(self) -> str:
        return self.where.name

    def cached(self) -> SceneCache:
        """The cache, for what needs one. Raises CacheError where the evaluation was given no store."""
        return self.cache if self.cache is not None else self.where.open()

    def in_source_order(self, values: NDArray[np.integer], missing: int = -1) -> NDArray[np.integer]:
        """Per-Gaussian `values` [N] as rows of the source file; rows that the cache has pruned get `missing`."""
        rows = np.full(self.gaussians.source_rows, missing, dtype=values.dtype)
        rows[self.gaussians.source_ids] = values
        return rows


def scene_at(
    path: StorePath,
    alignment: AlignmentSettings | None = None,
    *,
    lod: int = 0,
    max_gaussians: int = MAX_GAUSSIANS,
) -> EvalScene:
    """The scene at `path`: a store's <data set>/<scene id>.zarr, or a scene file or folder of any format.

    lod: level of a streamed scene. max_gaussians: larger ones are refused. Neither concerns a store.
    """
    if not path.exists():
        raise SceneError(f"{path}: no such scene")
    if isinstance(path, BucketPath):
        if not path.name.endswith(".zarr"):
            raise SceneError(f"{path}: scene files are read from a disk; in a bucket only <scene>.zarr of a store is")
        return EvalScene(path.parent.name, path.stem, path.parent.parent)
    path = path.resolve()
    if path.suffix == ".zarr":
        _refuse_reading(alignment or AlignmentSettings(), lod or None, str(path))
        return EvalScene(path.parent.name, path.stem, path.parent.parent)
    name = path.stem if path.is_file() else path.name
    settings = alignment or AlignmentSettings()
    return EvalScene(path.parent.name, name, None, path, alignment=settings, lod=lod, max_gaussians=max_gaussians)


def _refuse_reading(settings: AlignmentSettings, lod: int | None, who: str) -> None:
    """Raise ConfigError for options that would do nothing: a cache holds the scene as stage 1 read it and brought it in
    order.
    """
    if settings != AlignmentSettings() or lod is not None:
        raise ConfigError(
            f"{who}: --up, --scale, --outliers and --lod belong to chorus-stage1 run; a cache was made from an aligned "
            "scene"
        )


@dataclass
class Selection:
    """Scenes in a fixed order, and the ones left out with the reason, which every result shows.

    `failed` tells whether one was left out that should have been there (missing or damaged), which makes the exit code
    1.
    """

    scenes: list[EvalScene]
    excluded: dict[str, str] = field(default_factory=dict)
    failed: bool = False

    def leave_out(self, scene: EvalScene, reason: str, *, failed: bool = False) -> None:
        self.excluded[scene.name] = reason
        self.failed |= failed


@dataclass(frozen=True)
class SceneOptions:
    """What scenes are asked for: see `select_scenes`; label_space: see `labelled_scenes`."""

    stores: tuple[StorePath, ...] = ()
    manifest: StorePath | None = None
    split: str = "val"
    label_space: str = ""
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    max_gaussians: int | None = None
    lod: int | None = None

    def labelled(self, *, keep_unlabelled: bool = False) -> tuple[Selection, tuple[str, ...], str]:
        """(scenes, class names, label space); raises what `select_scenes` and `labelled_scenes` raise."""
        selection = select_scenes(
            self.stores, self.manifest, self.split, self.alignment, lod=self.lod, max_gaussians=self.max_gaussians
        )
        return selection, *labelled_scenes(selection, self.label_space, keep_unlabelled=keep_unlabelled)

    def inputs(self) -> dict[str, Any]:
        """For a result file; the label space that was found is the task's to tell."""
        return {
            "stores": [str(store) for store in self.stores],
            "manifest": None if self.manifest is None else str(self.manifest),
            "split": self.split,
            "alignment": self.alignment.model_dump(),
            "lod": self.lod,
        }


def select_scenes(
    stores: Sequence[StorePath],
    manifest: StorePath | None,
    split: str,
    alignment: AlignmentSettings | None = None,
    *,
    lod: int | None = None,
    max_gaussians: int | None = None,
) -> Selection:
    """Scenes of `split` by (data set, id), found in the first store that has them; without a manifest, all scenes of
    the stores; without stores, the manifest's own files, read as `alignment`, `lod` and `max_gaussians` say, or the
    manifest where they say nothing.

    Raises CacheError or ManifestError, one line, where nothing is left to evaluate.
    """
    if not stores and manifest is None:
        raise ConfigError("no scenes given; use --manifest, --store or both")
    settings = alignment or AlignmentSettings()
    if stores:
        _refuse_reading(settings, lod, str(stores[0]))
    for store in stores:
        if not store.is_dir():
            raise CacheError(f"{store}: no such store; run chorus-stage1 first")
    if manifest is None:
        found = _published(stores, ())
        if not found:
            raise CacheError(f"{stores[0]}: holds no scenes; run chorus-stage1 first")
        return Selection([EvalScene(dataset, scene, store) for (dataset, scene), store in sorted(found.items())])
    listed, place_of = read_placed(manifest)
    rows = sorted(listed.select(split=split), key=lambda row: (row.dataset, row.scene_id))
    rows = [row.told(lod, max_gaussians) for row in rows]
    if not rows:
        known = ", ".join(sorted({row.split for row in listed}))
        raise ManifestError(f"{manifest}: no scenes in split '{split}'; it has {known or 'no scenes at all'}")
    found = _published(stores, rows)
    selection = Selection([])
    for row in rows:
        there = found.get((row.dataset, row.scene_id))
        scene = EvalScene(
            row.dataset,
            row.scene_id,
            there or (stores[0] if stores else None),
            place_of(row.scene_path),
            row.label_space,
            lod=row.lod,
            max_gaussians=row.max_gaussians,
            sha256=row.sha256,
        )
        if not stores:
            cameras = None if row.cameras_path is None else place_of(row.cameras_path)
            scene = replace(scene, cameras=cameras, alignment=settings.or_else(row.alignment))
        if stores and there is None:
            selection.leave_out(scene, "not in the store; run chorus-stage1", failed=True)
        else:
            selection.scenes.append(scene)
    if not selection.scenes:
        raise CacheError(
            f"{stores[0]}: none of the {len(rows)} scenes of split '{split}' is in the store; run chorus-stage1 first"
        )
    return selection


def _published(stores: Sequence[StorePath], rows: Sequence[ManifestRow]) -> dict[tuple[str, str], StorePath]:
    """(data set, scene id) -> the first store that has the scene: one listing of each store, since asking for every
    scene would cost a request each in a bucket; of a store that does not list, the scenes of `rows` that are there.
    """
    found: dict[tuple[str, str], StorePath] = {}
    for store in stores:
        if isinstance(store, BucketPath) and not store.lists and rows:
            paths: list[StorePath] = [store / row.dataset / f"{row.scene_id}.zarr" for row in rows]
            paths = [path for path in paths if is_published(path)]
        else:
            paths = published_scenes(store)
        for path in paths:
            found.setdefault((path.parent.name, path.stem), store)
    return found


def labelled_scenes(
    selection: Selection, label_space: str = "", *, keep_unlabelled: bool = False
) -> tuple[tuple[str, ...], str]:
    """Class names and label space that all labelled scenes of `selection` share; moves scenes without ground truth to
    the excluded, unless told to keep them.

    label_space: the one to use whatever the scenes say; "" = theirs. Raises CacheError where no scene has ground truth
    or two label spaces meet, ConfigError for an unknown `label_space`.
    """
    if label_space and label_space not in LABEL_SPACES:
        raise ConfigError(f"unknown label space '{label_space}'; known: {', '.join(LABEL_SPACES)}")
    kept, space = [], label_space
    for scene in selection.scenes:
        try:
            own = scene.open().attributes.label_space if scene.store is not None else scene.label_space
        except CacheError as error:
            selection.leave_out(scene, one_line(error), failed=True)
            continue
        if not own and not keep_unlabelled:
            selection.leave_out(scene, "no ground truth")
            continue
        if own and not label_space:
            if own not in LABEL_SPACES:
                raise CacheError(f"{scene.name}: unknown label space '{own}'; known: {', '.join(LABEL_SPACES)}")
            if space and own != space:
                raise CacheError(
                    f"{scene.name}: label space '{own}', but earlier scenes have '{space}'; evaluate them apart"
                )
            space = own
        kept.append(scene)
    selection.scenes = kept
    if not kept:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(selection.excluded.items())[:3])
        raise CacheError(f"no scene with ground truth to evaluate ({reasons})")
    if not space:
        raise ConfigError("no scene says what its classes are; give --label-space")
    return LABEL_SPACES[space], space


def _other_labels(scene: EvalScene, gaussians: GaussianScene, label_space: str) -> dict[str, Any]:
    """Labels of another space, read from the source and brought to the cache's rows."""
    if scene.source is None:
        raise CacheError(
            f"{scene.name}: the cache holds labels of '{gaussians.label_space or 'none'}'; for {label_space} give "
            "--manifest, so that they can be read from the source"
        )
    source = scene.read_source(label_space)
    if len(source) <= int(gaussians.source_ids.max(initial=-1)):
        raise CacheError(f"{scene.name}: the cache was made from another file than {scene.source}; run stage 1 again")
    labels = None if source.labels is None else source.labels[gaussians.source_ids]
    return {"labels": labels, "label_space": label_space}
