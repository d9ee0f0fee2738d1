"""From stores, a manifest and a config to what the trainer takes: opened scenes and the standardisers of their
teachers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from chorus_common.cache import SceneCache, published_scenes
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.manifest import read_placed
from chorus_common.runtime.errors import CacheError, ConfigError, did_you_mean
from chorus_common.runtime.store_path import StorePath
from stage2_distill.data.dataset import SceneEntry

Found = tuple[str, str, StorePath]
Warn = Callable[[str], None]


def find_scenes(stores: Sequence[StorePath], manifest: StorePath | None, split: str | None, warn: Warn) -> list[Found]:
    """(data set, scene id, store path) of the scenes to use, sorted by data set and id.

    Without a manifest these are all scenes of all stores; with one, its rows of `split` (None: all of them). Rows that
    no store holds are reported to `warn` once; CacheError where none is held at all.
    """
    found: dict[tuple[str, str], StorePath] = {}
    for store in stores:
        if not store.is_dir():
            raise CacheError(f"{store}: no such store; run chorus-stage1 run --store {store} first")
        for path in published_scenes(store):
            key = (path.parent.name, path.stem)
            if key in found:
                raise CacheError(f"scene {key[0]}/{key[1]} is in two stores: {found[key]} and {path}; remove one")
            found[key] = path
    if manifest is None:
        if split is not None:
            raise ConfigError(f"--split {split} needs --manifest, which says which scenes are in it")
        wanted = sorted(found)
    else:
        listed, _ = read_placed(manifest)
        rows = listed.select(split=split)
        wanted = sorted({(row.dataset, row.scene_id) for row in rows})
        if not wanted:
            raise ConfigError(f"{manifest}: no scene in split '{split}'")
    missing = [key for key in wanted if key not in found]
    if len(missing) == len(wanted):
        raise CacheError(
            f"{', '.join(map(str, stores))}: holds none of the {len(wanted)} wanted scenes; run chorus-stage1 run first"
        )
    if missing:
        name = "/".join(missing[0])
        warn(f"warning: {len(missing)} of {len(wanted)} scenes are not in the store (first: {name}) and are left out")
    return [(*key, found[key]) for key in wanted if key in found]


def open_scenes(found: Iterable[Found]) -> list[SceneEntry]:
    """Every scene's store, checked on opening; CacheError names the first that cannot be used."""
    entries = []
    for dataset, scene_id, path in found:
        cache = SceneCache.open(path)
        entries.append(SceneEntry(dataset, scene_id, cache.fingerprint, cache))
    return entries


def read_standardisers(
    stores: Sequence[StorePath], scenes: Sequence[SceneEntry], wanted: Iterable[str]
) -> dict[str, PhiSStandardiser]:
    """Standardisers of the `wanted` teachers (none named: all dense teachers of the scenes), by name.

    Raises ConfigError for a teacher that no scene has, and CacheError where stores disagree about a teacher's
    standardiser: their targets would live in different spaces.
    """
    present = sorted({name for scene in scenes for name in scene.store.dense_teachers})
    names = sorted(wanted) or present
    for name in names:
        if name not in present:
            hint = did_you_mean(name, present) or "; the stores hold no dense teacher"
            raise ConfigError(f"no scene has features of teacher '{name}'{hint}")
    standardisers: dict[str, PhiSStandardiser] = {}
    for name in names:
        for store in stores:
            path = store / "standardisers" / f"{name}.safetensors"
            if not path.exists():
                continue
            standardiser = PhiSStandardiser.load(path)
            if name in standardisers and standardisers[name].fingerprint != standardiser.fingerprint:
                raise CacheError(
                    f"{path}: teacher {name} has another standardiser here than in {stores[0]}; "
                    "calibrate both stores alike"
                )
            standardisers[name] = standardiser
        if name not in standardisers:
            raise CacheError(
                f"{stores[0] / 'standardisers' / f'{name}.safetensors'}: no such standardiser; "
                "run chorus-stage1 calibrate"
            )
        for scene in scenes:
            made_with = scene.store.dense_teachers.get(name)
            if made_with is not None and made_with.standardiser != standardisers[name].fingerprint:
                raise CacheError(
                    f"scene {scene.scene_id}: features of teacher {name} were made with another standardiser; "
                    "delete this scene's cache and run stage 1 again"
                )
    return standardisers


def text_aligned(scenes: Sequence[SceneEntry], names: Iterable[str]) -> frozenset[str]:
    """Those of the teachers `names` whose features live in the space of a text encoder."""
    found = {n for scene in scenes for n, teacher in scene.store.dense_teachers.items() if teacher.text_aligned}
    return frozenset(found & set(names))
