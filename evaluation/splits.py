"""Which scenes a task learns from and which it is scored on: splits of a manifest, or a fold of a cross validation."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.store_path import StorePath
from evaluation.scenes import EvalScene, Selection, labelled_scenes, select_scenes


@dataclass(frozen=True)
class Splits:
    """Which scenes are learned from and which are scored.

    train, val: splits of the manifest. hold_out: pattern of scene ids (as "Area_5_*"); the scenes of all these splits
    are then pooled, those that match are scored and all others learned from: one fold of a cross validation.
    """

    train: tuple[str, ...] = ("train",)
    val: tuple[str, ...] = ("val",)
    hold_out: str = ""

    def select(self, stores: Sequence[StorePath], manifest: StorePath) -> tuple[Selection, Selection]:
        """(scenes to learn from, scenes to score), by (data set, id).

        Raises ConfigError where a scene would be in both or none is left, and what `select_scenes` raises.
        """
        if not self.hold_out:
            both = sorted(set(self.train) & set(self.val))
            if both:
                raise ConfigError(
                    f"--train-split and --split are both '{both[0]}'; score scenes that were not learned from"
                )
            return _joint_selection(stores, manifest, self.train), _joint_selection(stores, manifest, self.val)
        pool = _joint_selection(stores, manifest, tuple(dict.fromkeys((*self.train, *self.val))))
        held = {s.name for s in pool.scenes if fnmatch.fnmatchcase(s.scene_id, self.hold_out)}
        if not held or len(held) == len(pool.scenes):
            raise ConfigError(
                f"{manifest}: '{self.hold_out}' holds out {len(held)} of {len(pool.scenes)} scenes; "
                "it must match some scene ids and leave some"
            )
        train = Selection([s for s in pool.scenes if s.name not in held], dict(pool.excluded), pool.failed)
        return train, Selection([s for s in pool.scenes if s.name in held])


def labelled_pair(train: Selection, val: Selection, label_space: str = "") -> tuple[tuple[str, ...], str]:
    """Class names and label space that both sides share; scenes without ground truth move to the excluded ones.

    Raises ConfigError where they differ, and what `labelled_scenes` raises.
    """
    class_names, space = labelled_scenes(val, label_space)
    _, other = labelled_scenes(train, label_space)
    if other != space:
        raise ConfigError(
            f"the scenes to learn from have label space '{other}', those to score '{space}'; give --label-space"
        )
    return class_names, space


def _joint_selection(stores: Sequence[StorePath], manifest: StorePath, splits: Sequence[str]) -> Selection:
    """The scenes of several splits as one selection."""
    parts = [select_scenes(stores, manifest, split) for split in splits]
    scenes: list[EvalScene] = sorted((s for p in parts for s in p.scenes), key=lambda s: (s.dataset, s.scene_id))
    excluded = {name: reason for p in parts for name, reason in p.excluded.items()}
    return Selection(scenes, excluded, any(p.failed for p in parts))
