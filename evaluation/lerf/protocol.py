"""The LERF-OVS / Mip-NeRF360-OVS protocol over the annotated frames of scenes: what is asked, averaged and reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import GaussianScene
from evaluation.lerf.annotations import AnnotatedFrame
from evaluation.lerf.scores import THRESHOLDS, LerfRules, QueryScores, score_query

F32 = NDArray[np.float32]


class Answer(Protocol):
    """What answers queries about a scene."""

    def __call__(self, name: str, width: int, height: int, texts: list[str], /) -> F32:
        """Relevancy [H, W, Q] in frame `name`, NaN where nothing is."""
        ...


class GaussianAnswer(Answer, Protocol):
    """The same, for the scene's Gaussians too."""

    def of_gaussians(self, text: str, /) -> F32:
        """Relevancy [N] of the scene's Gaussians, 0 where nothing is known of one."""
        ...


@dataclass(frozen=True, eq=False)
class AskedScene:
    """A scene with its annotated frames, and what answers for it.

    views: frame -> row of `cameras`. text_encoder: spec of the text side.
    """

    name: str
    frames: Sequence[AnnotatedFrame]
    gaussians: GaussianScene
    cameras: CameraSet
    views: Mapping[str, int]
    answer: GaussianAnswer
    text_encoder: str


def score_frames(
    frames: Sequence[AnnotatedFrame], answer: Answer, rules: LerfRules
) -> dict[str, dict[str, QueryScores]]:
    """frame -> query -> scores."""
    found = {}
    for frame in frames:
        texts = [query.text for query in frame.queries]
        maps = answer(frame.name, frame.width, frame.height, texts)
        found[frame.name] = {
            query.text: score_query(maps[..., i], query.mask, query.boxes, rules)
            for i, query in enumerate(frame.queries)
        }
    return found


def summarise(scenes: Mapping[str, Mapping[str, Mapping[str, QueryScores]]]) -> dict[str, Any]:
    """Per scene and over all: macro means (each scene counts alike) and query-weighted ones ((frame, query) pairs do).

    Published tables are macro means; with 22 pairs in one scene and 71 in another the two differ by points.
    """
    per_scene = {
        name: _means([q for frame in frames.values() for q in frame.values()]) for name, frames in scenes.items()
    }
    pairs = [q for frames in scenes.values() for frame in frames.values() for q in frame.values()]
    keys = ("miou", "localisation", "average_precision", "best_iou")
    macro = {key: float(np.mean([scene[key] for scene in per_scene.values()])) for key in keys}
    return {"scenes": per_scene, "macro": macro, "query_weighted": _means(pairs)}


def _means(queries: Sequence[QueryScores]) -> dict[str, Any]:
    curve = np.mean([q.curve for q in queries], axis=0)
    best = int(curve.argmax())
    return {
        "queries": len(queries),
        "miou": float(np.mean([q.iou for q in queries])),
        "localisation": float(np.mean([q.located for q in queries])),
        "average_precision": float(np.mean([q.average_precision for q in queries])),
        "best_iou": float(curve[best]),
        "best_threshold": float(THRESHOLDS[best]),
        "iou_curve": [round(float(x), 5) for x in curve],
    }


def match_frames(
    frames: Sequence[AnnotatedFrame], views: Sequence[str], trained: Sequence[str], scene: str
) -> dict[str, int]:
    """frame -> row of its view, matched by name without suffix.

    Raises ConfigError where a frame has no view, or where its view was trained on: scores on training views say how
    well the masks were memorised.
    """
    place = {_stem(name): row for row, name in enumerate(views)}
    if missing := [frame.name for frame in frames if frame.name not in place]:
        raise ConfigError(
            f"scene {scene}: no view is called '{missing[0]}' ({len(missing)} of {len(frames)} annotated frames); "
            "were all frames registered?"
        )
    seen = {_stem(name) for name in trained}
    if known := [frame.name for frame in frames if frame.name in seen]:
        raise ConfigError(
            f"scene {scene}: the field was trained on annotated frame {known[0]} ({len(known)} of {len(frames)}); "
            "train it with --hold-out for each, or give --allow-training-views"
        )
    return {frame.name: place[frame.name] for frame in frames}


def _stem(name: str) -> str:
    head, dot, tail = name.rpartition("/")[2].rpartition(".")
    return head if dot and tail.lower() in ("jpg", "jpeg", "png") else name.rpartition("/")[2]
