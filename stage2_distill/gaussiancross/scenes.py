"""From stores, a manifest and captures to what the pretrainer takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from chorus_common.runtime.store_path import StorePath
from stage2_distill.data.dataset import scene_identities
from stage2_distill.data.targets import ByteBudget
from stage2_distill.gaussiancross.data import CaptureScene
from stage2_distill.gaussiancross.settings import GaussianCrossConfig
from stage2_distill.gaussiancross.views import SceneViews, ViewStore
from stage2_distill.sources import find_scenes, open_scenes, read_standardisers


@dataclass(frozen=True)
class CaptureScenes:
    """Scenes with views, {teacher: channels}, and what identifies them for a resumed run."""

    scenes: list[CaptureScene]
    channels: dict[str, int]
    identity: dict[str, Any]


def open_capture_scenes(
    stores: Sequence[StorePath],
    manifest: StorePath | None,
    split: str | None,
    captures: Path | None,
    depth_unit: float,
    config: GaussianCrossConfig,
    warn: Callable[[str], None],
) -> CaptureScenes:
    """Every scene of `split`, opened and checked; ChorusError names the first that is unusable.

    Without the semantic and the contrastive term no teacher is read at all.
    """
    entries = open_scenes(find_scenes(stores, manifest, split, warn))
    semantic = config.loss.semantics + config.loss.contrast > 0
    standardisers = read_standardisers(stores, entries, config.teachers) if semantic else {}
    budget = ByteBudget(config.data.memory_mb * 2**20)
    scenes = []
    for entry in entries:
        store = cast(ViewStore, entry.store)
        views = SceneViews(
            store, f"{entry.dataset}/{entry.scene_id}", tuple(standardisers), config.data.pixels_per_cell, captures,
            budget, depth_unit=depth_unit,
        )  # fmt: skip
        scenes.append(CaptureScene(entry.dataset, store.scene(), views))
    identity = {
        "scenes": scene_identities(entries),
        "teachers": {name: standardiser.fingerprint for name, standardiser in standardisers.items()},
        "pictures": "cache" if captures is None else "captures",
        "depth_unit": None if captures is None else depth_unit,
    }
    return CaptureScenes(
        scenes, {name: standardiser.channels for name, standardiser in standardisers.items()}, identity
    )
