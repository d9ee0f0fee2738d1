"""Which scenes an evaluation looks at: the scenes of a manifest's split, opened in the cache, and those that had to be
left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chorus_common.cache import SceneCache
from chorus_common.errors import CacheError, ManifestError, one_line
from chorus_common.labels import LABEL_SPACES
from chorus_common.manifest import Manifest


@dataclass(frozen=True)
class EvalScene:
    """A scene to evaluate: its cache, and where its source is, if a manifest says so."""

    dataset: str
    scene_id: str
    store: Path
    source: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.scene_id}"

    @property
    def path(self) -> Path:
        return self.store / self.dataset / f"{self.scene_id}.zarr"

    def open(self) -> SceneCache:
        """The scene's cache; CacheError where it is damaged."""
        return SceneCache.open(self.path)


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


def select_scenes(stores: Sequence[Path], manifest: Path | None, split: str) -> Selection:
    """Scenes of `split` by (data set, id), found in the first store that has them; without a manifest, all scenes of
    the stores.

    Raises CacheError or ManifestError, one line, where nothing is left to evaluate.
    """
    for store in stores:
        if not store.is_dir():
            raise CacheError(f"{store}: no such store; run chorus-stage1 first")
    if manifest is None:
        found: dict[tuple[str, str], Path] = {}
        for store in stores:
            for path in sorted(store.glob("*/*.zarr")):
                found.setdefault((path.parent.name, path.stem), store)
        if not found:
            raise CacheError(f"{stores[0]}: holds no scenes; run chorus-stage1 first")
        return Selection([EvalScene(dataset, scene, store) for (dataset, scene), store in sorted(found.items())])
    rows = sorted(Manifest.read(manifest).select(split=split), key=lambda row: (row.dataset, row.scene_id))
    if not rows:
        raise ManifestError(f"{manifest}: no scenes in split '{split}'")
    selection = Selection([])
    for row in rows:
        candidates = [EvalScene(row.dataset, row.scene_id, store, Path(row.scene_path)) for store in stores]
        scene = next((c for c in candidates if c.path.is_dir()), None)
        if scene is None:
            selection.leave_out(candidates[0], "not in the store; run chorus-stage1", failed=True)
        else:
            selection.scenes.append(scene)
    if not selection.scenes:
        raise CacheError(
            f"{stores[0]}: none of the {len(rows)} scenes of split '{split}' is in the store; run chorus-stage1 first"
        )
    return selection


def labelled_scenes(selection: Selection) -> tuple[tuple[str, ...], str]:
    """Class names and label space that all labelled scenes of `selection` share; moves scenes without ground truth to
    the excluded.

    Raises CacheError where no scene has ground truth, or where two label spaces meet.
    """
    kept, space = [], ""
    for scene in selection.scenes:
        try:
            cache = scene.open()
        except CacheError as error:
            selection.leave_out(scene, one_line(error), failed=True)
            continue
        name = cache.attributes.label_space
        if not name:
            selection.leave_out(scene, "no ground truth")
            continue
        if name not in LABEL_SPACES:
            raise CacheError(f"{scene.name}: unknown label space '{name}'; known: {', '.join(LABEL_SPACES)}")
        if space and name != space:
            raise CacheError(
                f"{scene.name}: label space '{name}', but earlier scenes have '{space}'; evaluate them apart"
            )
        space = name
        kept.append(scene)
    selection.scenes = kept
    if not kept:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(selection.excluded.items())[:3])
        raise CacheError(f"no scene with ground truth to evaluate ({reasons})")
    return LABEL_SPACES[space], space
