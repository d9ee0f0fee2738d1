"""Linear probe: how much of the classes lies linearly in features, of an encoder or from files.

An encoder is frozen for true: eval mode (no drop path, running statistics), no gradients; published probes that only
switch the gradients off leave drop path on. On the features, standardised per channel by the training scenes' mean and
deviation, one linear layer is fitted: softmax cross-entropy plus a small L2 term. That problem is convex, so L-BFGS
finds its one optimum and there is no learning rate, schedule or seed of the head that a number could depend on.

The row `random` is the encoder's architecture with seeded random weights and the same fit: what the architecture and
its inputs give away by themselves.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import minimize

from chorus_common.runtime.config import Config
from chorus_common.runtime.errors import ConfigError
from evaluation.features import PASS, FeatureSource, SceneFeatures
from evaluation.metrics.semantic import ConfusionMatrix, MetricError
from evaluation.run_scenes import NoGroundTruthError, PartialResults, SceneResult, run_scenes
from evaluation.scene_scores import SceneScores, sparse_counts
from evaluation.scenes import EvalScene, LoadedScene, Selection
from evaluation.targets import check_labels
from evaluation.tasks.zero_shot import score_row
from stage2_distill.encoder import Encoder

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Rows per matrix product: bounds memory at rows x (channels + classes).
_PASS = 1 << 15


class ProbeConfig(Config):
    """How the linear layer is fitted.

    points_per_scene: labelled Gaussians drawn from each training scene, without replacement. balance: "plain" counts
    every Gaussian once, "balanced" gives every class the same total weight. l2: weight of |W|^2 / 2 beside the mean
    loss. seed: of the draw.
    """

    points_per_scene: int = Field(default=4096, ge=1)
    balance: Literal["plain", "balanced"] = "plain"
    l2: float = Field(default=1e-4, ge=0)
    iterations: int = Field(default=300, ge=1)
    seed: int = 0


@dataclass(frozen=True)
class LinearHead:
    """logits = (x - mean) / deviation @ weight + bias; mean, deviation [D], weight [D, K], bias [K]."""

    mean: F32
    deviation: F32
    weight: F32
    bias: F32

    def predict(self, features: F32) -> NDArray[np.int32]:
        """Class [N] of the greatest logit; ties to the lowest class."""
        classes = np.empty(len(features), dtype=np.int32)
        for start in range(0, len(features), _PASS):
            x = (features[start : start + _PASS] - self.mean) / self.deviation
            classes[start : start + _PASS] = (x @ self.weight + self.bias).argmax(axis=1)
        return classes


def fit_linear(features: F32, labels: NDArray[np.integer], n_classes: int, config: ProbeConfig) -> LinearHead:
    """The optimum of the probe's loss on features [N, D] and labels [N] in [0, K)."""
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = features.std(axis=0, dtype=np.float64)
    deviation = np.where(
        deviation > 1e-6 * max(deviation.max(initial=0.0), 1e-30), deviation, 1.0
    )  # a constant channel says nothing
    x = ((features - mean) / deviation).astype(np.float32)
    counts = np.bincount(labels, minlength=n_classes)
    per_class = np.ones(n_classes) if config.balance == "plain" else 1.0 / np.maximum(counts, 1)
    weights = per_class[labels]
    weights /= weights.sum()
    d = x.shape[1]

    def loss_and_gradient(flat: F64) -> tuple[float, F64]:
        w, b = flat[: d * n_classes].reshape(d, n_classes), flat[d * n_classes :]
        w32, b32 = w.astype(np.float32), b.astype(np.float32)
        loss, grad_w, grad_b = 0.5 * config.l2 * float((w * w).sum()), config.l2 * w, np.zeros(n_classes)
        for start in range(0, len(x), _PASS):
            rows = slice(start, start + _PASS)
            part, y, share = x[rows], labels[rows], weights[rows]
            logits = part @ w32 + b32
            logits -= logits.max(axis=1, keepdims=True)
            at = np.arange(len(part))
            right = logits[at, y].astype(np.float64)
            np.exp(logits, out=logits)
            total = logits.sum(axis=1, dtype=np.float64)
            loss += float(share @ (np.log(total) - right))
            logits /= total[:, None].astype(np.float32)
            logits[at, y] -= 1.0
            logits *= share[:, None].astype(np.float32)
            grad_w = grad_w + part.T @ logits
            grad_b += logits.sum(axis=0, dtype=np.float64)
        return loss, np.concatenate([grad_w.reshape(-1), grad_b])

    start = np.zeros((d + 1) * n_classes)
    options = {"maxiter": config.iterations, "ftol": 1e-9, "gtol": 1e-6, "maxcor": 20}
    flat = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options).x.astype(np.float32)
    return LinearHead(
        mean.astype(np.float32),
        deviation.astype(np.float32),
        flat[: d * n_classes].reshape(d, n_classes),
        flat[d * n_classes :],
    )


def random_twin(encoder: Encoder, seed: int) -> Encoder:
    """The same architecture on the same device with random weights of `seed`; the global generator is left as it
    was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = Encoder(encoder.config)
    return twin.to(next(encoder.parameters()).device).eval()


def probe(
    train: Selection,
    val: Selection,
    label_space: str,
    sources: Mapping[str, FeatureSource],
    config: ProbeConfig,
    scores: SceneScores,
    *,
    workers: int = 1,
    partial: PartialResults | None = None,
) -> dict[str, Any]:
    """Fit on `train`, score on `val`, a linear layer for every source.

    sources: row name -> where its features come from. The counts of every scene go into `scores`; `workers` are
    processes, which change no number; what is done waits in `partial`. Returns {"rows": {row: scores}, "per_scene":
    {scene: {row: ...}}, "excluded": ...}. Raises ConfigError where training scenes have features of several widths.
    """
    n_classes = len(scores.class_names)
    reading = partial.of_step("reading") if partial is not None else None
    draw = _Draw(sources, label_space, config)
    drawn = run_scenes(train, draw, label="probe: reading", workers=workers, partial=reading)
    labels = np.concatenate([scene_result["labels"] for scene_result in drawn.values()])
    heads = {
        name: fit_linear(
            _concatenated({scene: scene_result[name] for scene, scene_result in drawn.items()}),
            labels,
            n_classes,
            config,
        )
        for name in sources
    }
    fitted = b"".join(array.tobytes() for head in heads.values() for array in vars(head).values())
    scoring = partial.of_step("scoring", fitted) if partial is not None else None
    score = _Score(sources, heads, label_space, scores.class_names)
    scored = run_scenes(val, score, label="probe: scoring", workers=workers, partial=scoring)
    for scene, counts in scored.items():
        for name, entries in counts.items():
            scores.semantic.setdefault(name, {})[scene] = scores.matrix(entries)
    return {
        "rows": {name: {**score_row(scores.total(name)), "n_train": len(labels)} for name in sources},
        "per_scene": scores.per_scene(),
        "excluded": {**train.excluded, **val.excluded},
    }


def _concatenated(features: Mapping[str, F32]) -> F32:
    """The rows of all training scenes under each other; scene name -> [R, D]."""
    first, width = next((name, rows.shape[1]) for name, rows in features.items())
    for name, rows in features.items():
        if rows.shape[1] != width:
            raise ConfigError(
                f"{name}: features have {rows.shape[1]} channels, those of {first} {width}; a probe needs one width"
            )
    return np.concatenate(list(features.values()))


@dataclass(frozen=True)
class _Draw:
    """Of a training scene: labels [R] of the Gaussians that are drawn, and their features [R, D] by source."""

    sources: Mapping[str, FeatureSource]
    label_space: str
    config: ProbeConfig

    def __call__(self, where: EvalScene) -> SceneResult:
        scene, labels = _labelled(where, self.label_space)
        # Drawn by the scene's own seed: leaving a scene out changes no other scene's draw.
        rng = np.random.default_rng([self.config.seed, zlib.crc32(scene.name.encode())])
        rows = np.flatnonzero(labels >= 0)
        if len(rows) > self.config.points_per_scene:
            rows = np.sort(rng.choice(rows, self.config.points_per_scene, replace=False))
        features = {name: _rows(source.open(scene), rows, len(labels)) for name, source in self.sources.items()}
        return {"labels": labels[rows].astype(np.int64), **features}


@dataclass(frozen=True)
class _Score:
    """Confusion counts of a scene by source."""

    sources: Mapping[str, FeatureSource]
    heads: Mapping[str, LinearHead]
    label_space: str
    class_names: tuple[str, ...]

    def __call__(self, where: EvalScene) -> SceneResult:
        scene, labels = _labelled(where, self.label_space)
        counts = {}
        for name, source in self.sources.items():
            features, head = source.open(scene), self.heads[name]
            predicted = np.empty(len(labels), dtype=np.int32)
            for start in range(0, len(labels), PASS):
                part = features.rows(start, min(len(labels), start + PASS))
                if part.shape[1] != len(head.mean):
                    raise MetricError(
                        f"features have {part.shape[1]} channels, those that the layer was fitted on {len(head.mean)}"
                    )
                predicted[start : start + PASS] = head.predict(part)
            counts[name] = sparse_counts(ConfusionMatrix(self.class_names).add(labels, predicted, who=scene.name))
        return counts


def _rows(features: SceneFeatures, rows: I64, n: int) -> F32:
    """The features [R, D] of the ascending `rows` of a scene of n Gaussians, which are read in passes."""
    parts = []
    for start in range(0, n, PASS):
        wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + PASS)]
        if len(wanted):
            parts.append(features.rows(start, min(n, start + PASS))[wanted - start])
    return np.concatenate(parts)


def _labelled(where: EvalScene, label_space: str) -> tuple[LoadedScene, NDArray[np.int32]]:
    """A scene and its labels [N]; SceneError where one is outside `label_space`: the scene is left out by name."""
    scene = where.load(label_space)
    labels = scene.gaussians.labels
    if labels is None or not (labels >= 0).any():
        raise NoGroundTruthError("no ground truth")
    check_labels(labels, label_space, scene.name)
    return scene, labels
