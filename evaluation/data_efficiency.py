"""Learning from little: a share of the training scenes, or a few annotated points per scene.

The protocol is that of ScanNet's data-efficient benchmark (1, 5, 10, 20 % of the scenes; 20, 50, 100, 200 points per
scene; Hou et al., CSC, CVPR 2021). Its official lists are taken from files where they are given; otherwise scenes and
points are drawn by a seed, and smaller sets are always subsets of larger ones, so that a curve over them shows the
amount and not the draw.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chorus_common.runtime.config import Config
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import GaussianScene
from evaluation.point_lists import annotate, read_point_lists
from evaluation.scenes import LoadedScene

I64 = NDArray[np.int64]


class LimitConfig(Config):
    """How much of the training data may be used.

    Attributes:
        scenes: per cent of the training scenes, rounded down, at least one (1 % of ScanNet's 1201 is 12).
        scene_list: official list, one scene id per line; takes the place of `scenes`.
        points: annotated points per scene (0 = all).
        point_lists: official lists: scene id -> indices of the annotated points among the benchmark's
            (`evaluation.point_lists`), as torch-pickled dict (.pth, ScanNet's) or JSON; takes the place of `points`.
        seed: of the draws.
    """

    scenes: float = Field(default=100.0, gt=0, le=100)
    scene_list: str = ""
    points: int = Field(default=0, ge=0)
    point_lists: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Limit:
    """A `LimitConfig` with its lists read: which scenes, and which of their labels may be seen."""

    config: LimitConfig
    listed_scenes: tuple[str, ...] | None = None
    listed_points: Mapping[str, I64] | None = None

    @staticmethod
    def of(config: LimitConfig) -> Limit:
        """Read the lists that `config` names. Raises ConfigError, one line, where one is not readable."""
        return Limit(
            config,
            read_scene_list(Path(config.scene_list)) if config.scene_list else None,
            read_point_lists(Path(config.point_lists)) if config.point_lists else None,
        )

    def scene_ids(self, scene_ids: Sequence[str]) -> list[str]:
        """Those of `scene_ids` that may be used, in their order."""
        if self.listed_scenes is not None:
            missing = [name for name in self.listed_scenes if name not in set(scene_ids)]
            if missing:
                raise ConfigError(
                    f"{self.config.scene_list}: {len(missing)} of its {len(self.listed_scenes)} scenes are not among "
                    f"the training scenes (first: {missing[0]})"
                )
            chosen = set(self.listed_scenes)
        else:
            chosen = set(drawn_scenes(scene_ids, self.config.scenes, self.config.seed))
        return [name for name in scene_ids if name in chosen]

    def annotated(self, scene: LoadedScene, label_space: str) -> GaussianScene:
        """The Gaussians of `scene`, whose labels are of `label_space`, with every label that may not be seen as -1."""
        gaussians, scene_id = scene.gaussians, scene.where.scene_id
        assert gaussians.labels is not None, "only labelled scenes are limited"
        if self.listed_points is not None:
            if scene_id not in self.listed_points:
                raise ConfigError(f"{self.config.point_lists}: has no points of scene {scene_id}")
            return annotate(scene, self.listed_points[scene_id], label_space, self.config.point_lists)
        if self.config.points == 0:
            return gaussians
        known = np.flatnonzero(gaussians.labels >= 0)
        drawn = drawn_points(gaussians.source_ids[known], self.config.points, self.config.seed, scene_id)
        keep = np.isin(gaussians.source_ids, drawn)
        return replace(gaussians, labels=np.where(keep, gaussians.labels, -1).astype(np.int32))

    def digest(self, scene_id: str) -> str:
        """SHA-256 of what the lists say of a scene's points; "" where no list does."""
        if self.listed_points is None or scene_id not in self.listed_points:
            return ""
        return hashlib.sha256(self.listed_points[scene_id].tobytes()).hexdigest()


def drawn_scenes(scene_ids: Sequence[str], percent: float, seed: int) -> list[str]:
    """int(percent of the scenes), at least one, drawn by `seed`; a smaller share is a subset of a larger one."""
    names = sorted(scene_ids)
    order = np.random.default_rng([seed, 1]).permutation(len(names))
    # A hair above, so that 1 % of 100 is not lost to rounding.
    return sorted(names[i] for i in order[: max(1, int(len(names) * percent / 100 + 1e-9))])


def drawn_points(candidates: NDArray[np.integer], n: int, seed: int, scene_id: str) -> I64:
    """`n` of the point ids in `candidates` (all where there are fewer), ascending, drawn by the scene's own seed.

    The order of the candidates does not matter, and fewer points are a subset of more.
    """
    ids = np.sort(np.asarray(candidates, dtype=np.int64))
    order = np.random.default_rng([seed, 2, zlib.crc32(scene_id.encode())]).permutation(len(ids))
    return np.sort(ids[order[:n]])


def read_scene_list(path: Path) -> tuple[str, ...]:
    """Scene ids of a text file, one per line. Raises ConfigError where it is missing, empty or has an id twice."""
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable list of scenes ({error})") from None
    names = [name.removesuffix(".pth") for name in names]  # some copies of the list name preprocessed files
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"{path}: {'lists a scene twice' if names else 'lists no scenes'}")
    return tuple(names)
