"""Features per Gaussian in place of a dense teacher's lifted ones: the targets of a field, or of anything else.

    <folder>/<dataset>/<scene_id>.safetensors    values [N, C] f16, standardised, rows as in the cache

The metadata names the cache and the standardiser they belong to; a file of another cache or standardiser is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from chorus_common.lifting import LiftingIndex
from chorus_common.runtime.atomic import write_bytes_atomically
from chorus_common.runtime.errors import CacheError, ConfigError
from chorus_common.scene import GaussianScene
from stage2_distill.data.dataset import SceneEntry
from stage2_distill.data.targets import SceneStore

FORMAT = "chorus-gaussian-features/1"

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]


def features_path(folder: Path, dataset: str, scene_id: str) -> Path:
    return folder / dataset / f"{scene_id}.safetensors"


def write_gaussian_features(path: Path, values: NDArray[np.floating], *, cache: str, standardiser: str) -> None:
    """values [N, C], standardised; `cache`, `standardiser`: fingerprints of what they belong to."""
    header = json.dumps({"format": FORMAT, "cache": cache, "standardiser": standardiser}, sort_keys=True)
    # one entry: safetensors orders several of them by a hash that changes from run to run
    write_bytes_atomically(path, save({"values": np.ascontiguousarray(values, np.float16)}, {"chorus": header}))


def read_gaussian_features(path: Path, *, cache: str, standardiser: str, shape: tuple[int, int]) -> F16:
    """The values [N, C]. Raises CacheError where the file is missing, damaged, or belongs to another cache or
    standardiser."""
    try:
        with safe_open(path, framework="numpy") as handle:
            header = json.loads((handle.metadata() or {})["chorus"])
            values = handle.get_tensor("values")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CacheError(f"{path}: not readable ({error}); run chorus-stage2 field export for this scene") from None
    for key, wanted in (("format", FORMAT), ("cache", cache), ("standardiser", standardiser)):
        if header.get(key) != wanted:
            raise CacheError(f"{path}: belongs to another {key} than this scene's; export the field again")
    if values.shape != shape or not np.isfinite(values).all():
        raise CacheError(f"{path}: holds {list(values.shape)}, expected finite {list(shape)}; export the field again")
    return values


@dataclass(frozen=True, eq=False)
class WithGaussianFeatures:
    """A scene's store in which some teachers have features per Gaussian. Everything else is the store's own."""

    store: SceneStore
    given: Mapping[str, F16]

    @property
    def dense_teachers(self) -> Any:
        own = dict(self.store.dense_teachers)
        return own | {
            name: own[name].model_copy(update={"lifted_rows": len(values)}) for name, values in self.given.items()
        }

    @property
    def n_views(self) -> int:
        return self.store.n_views

    @property
    def mask_teachers(self) -> Any:
        return self.store.mask_teachers

    def masks(self, name: str, level: str, views: Any = None) -> NDArray[np.int32]:
        return self.store.masks(name, level, views)

    def scene(self) -> GaussianScene:
        return self.store.scene()

    def lifting(self, rows: slice | NDArray[np.integer] | None = None) -> LiftingIndex:
        return self.store.lifting(rows)

    def visibility(self) -> tuple[F32, NDArray[np.int32]]:
        return self.store.visibility()

    def lifted_features(
        self, name: str, rows: slice | NDArray[np.integer] | None = None
    ) -> tuple[F32, NDArray[np.bool_]]:
        if name not in self.given:
            return self.store.lifted_features(name, rows)
        values = self.given[name][slice(None) if rows is None else rows].astype(np.float32)
        return values, np.ones(len(values), np.bool_)

    def features(self, name: str, views: Any = None) -> F32:
        """Per cell: of a given teacher what its Gaussians show there, W^T F, so that cells and Gaussians agree."""
        if name not in self.given:
            return self.store.features(name, views)
        index = self.store.lifting()
        if views is not None:
            index = index.select_views(views)
        values, _ = index.render(self.given[name].astype(np.float32))
        return values.reshape(index.n_views, index.grid.rows, index.grid.cols, -1)


def parse_gaussian_features(options: Sequence[str]) -> dict[str, Path]:
    """ "TEACHER=FOLDER" options as {teacher: folder}. Raises ConfigError."""
    found: dict[str, Path] = {}
    for option in options:
        teacher, equals, folder = option.partition("=")
        if not (teacher and equals and folder) or teacher in found:
            raise ConfigError(f"--gaussian-features {option}: expected TEACHER=FOLDER, each teacher once")
        found[teacher] = Path(folder)
    return found


def give_features(entries: Sequence[SceneEntry], folders: Mapping[str, Path]) -> list[SceneEntry]:
    """The scenes with the features of `folders` ({teacher: folder}) in place of lifted ones.

    Their fingerprints take in the files' content, so that a run is not continued with other targets. Raises CacheError
    for a scene whose file is missing or belongs to something else, ConfigError for a teacher that no scene has.
    """
    if not folders or not entries:
        return list(entries)
    for teacher in folders:
        if not any(teacher in entry.store.dense_teachers for entry in entries):
            raise ConfigError(f"--gaussian-features: no scene has a dense teacher '{teacher}' to replace")
    return [_given(entry, folders) for entry in entries]


def _given(entry: SceneEntry, folders: Mapping[str, Path]) -> SceneEntry:
    given, marks = {}, {}
    for teacher, folder in folders.items():
        if teacher not in entry.store.dense_teachers:
            continue
        dense = entry.store.dense_teachers[teacher]
        path = features_path(folder, entry.dataset, entry.scene_id)
        n = len(entry.store.visibility()[0])
        given[teacher] = read_gaussian_features(
            path, cache=entry.fingerprint, standardiser=dense.standardiser, shape=(n, dense.channels)
        )
        marks[teacher] = hashlib.sha256(given[teacher].tobytes()).hexdigest()
    if not given:
        return entry
    text = json.dumps([entry.fingerprint, marks], sort_keys=True)
    mixed = hashlib.sha256(text.encode()).hexdigest()[: len(entry.fingerprint) or None]
    return replace(entry, fingerprint=mixed, store=WithGaussianFeatures(entry.store, given))
