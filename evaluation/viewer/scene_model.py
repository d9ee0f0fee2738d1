"""What the viewer shows, without any viewer: the ways of colouring a scene's Gaussians, and its objects."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import ConfigError
from chorus_common.text import TextEncoder
from evaluation.features import PASS, FeatureSource, HeadedFeatures, SceneFeatures, StudentFeatures
from evaluation.heat_picture import heat_range
from evaluation.label import Labels, label_scene
from evaluation.likeness import feature_at, typical_features
from evaluation.prompts import class_embeddings
from evaluation.relevancy import query_embeddings, scene_relevancy
from evaluation.report.colours import PcaColours
from evaluation.scenes import LoadedScene
from evaluation.tasks.zero_shot import classify
from evaluation.viewer.layers import Layer, class_layer, heat_layer, rgb_layer
from evaluation.viewer.objects import Objects, objects_of, read_labels, true_objects

F32 = NDArray[np.float32]

COLOUR, FEATURES, PREDICTION, LABELS, TRUTH = "colour", "features", "prediction", "labels", "ground truth"
#: Rows that a basis of colours is fitted on: so many runs of so many rows, spread over the scene.
_RUNS, _RUN = 40, 500
_PALE = np.float32(0.85)


class SceneModel:
    """One scene, its features and the questions that can be asked about them. Everything is computed once, when it is
    first asked for.

    Args:
        source, text_encoder: features and the text side of their space, which may be missing; without features only
            colour, labels and truth are shown.
        class_names: what predictions are called; truth: what the scene's own labels are called. () = there are none.
        labels: folder that `chorus-eval label` wrote for this scene.
    """

    def __init__(
        self,
        scene: LoadedScene,
        source: FeatureSource | None = None,
        text_encoder: TextEncoder | None = None,
        class_names: tuple[str, ...] = (),
        prompts: str = "rooms",
        *,
        truth: tuple[str, ...] = (),
        labels: Path | None = None,
    ) -> None:
        self.scene, self.class_names, self.prompts, self.truth = scene, class_names, prompts, truth
        self._source, self._text_encoder = source, text_encoder
        self._labels = None if labels is None else read_labels(labels, scene)
        self._done: dict[str, Layer] = {}

    @property
    def modes(self) -> tuple[str, ...]:
        """Ways of colouring that this scene has, in the order in which they are offered."""
        modes = [COLOUR]
        if self._source is not None:
            modes.append(FEATURES)
            if isinstance(self._source, StudentFeatures):
                modes += [f"{FEATURES}: {head}" for head in self._source.other_heads]
        if self.answers_text and self.class_names:
            modes.append(PREDICTION)
        if self._labels is not None:
            modes.append(LABELS)
        if self.scene.gaussians.labels is not None and self.truth:
            modes.append(TRUTH)
        return tuple(modes)

    @property
    def heads(self) -> dict[str, str]:
        """Names of the student's other heads, and of the ways of colouring that show them."""
        return {m.removeprefix(f"{FEATURES}: "): m for m in self.modes if m.startswith(f"{FEATURES}: ")}

    @property
    def has_features(self) -> bool:
        return self._source is not None

    @property
    def answers_text(self) -> bool:
        """Whether something can be asked in words."""
        return self._source is not None and self._text_encoder is not None

    @property
    def has_objects(self) -> bool:
        """Whether there is something to make objects of."""
        truth = self.scene.gaussians.instances is not None
        return self._labels is not None or truth or (self.answers_text and bool(self.class_names))

    def layer(self, mode: str) -> Layer:
        """The colouring `mode`. Raises ConfigError for one that the scene does not have."""
        if mode not in self.modes:
            raise ConfigError(f"unknown mode '{mode}'; known: {', '.join(self.modes)}")
        if mode not in self._done:
            self._done[mode] = self._make(mode)
        return self._done[mode]

    def answer(self, query: str) -> Layer:
        """How relevant every Gaussian is to words. Raises ConfigError without a text side."""
        if self._text_encoder is None or self._source is None:
            raise ConfigError("nothing can be asked in words: there is no text side; give --encoder or --features")
        name = f"“{query}”"
        if name not in self._done:
            texts = query_embeddings(self._text_encoder, [query], self.prompts)
            found = scene_relevancy(self._features, len(self.scene.gaussians), *texts)[:, 0]
            note = "Relevancy. 0.5: as near to the words as to the nearest canonical phrase."
            self._done[name] = heat_layer(name, found, *heat_range(found), note=note)
        return self._done[name]

    def like(self, row: int) -> Layer:
        """What is like the place of Gaussian `row`, as `chorus-eval query --like-point` says it."""
        scene = self.scene.gaussians
        if not 0 <= row < len(scene):
            raise ConfigError(f"there is no Gaussian {row}; the scene has {len(scene)}")
        features = self._features
        place = self.scene.alignment.points_back(scene.means[row].astype(np.float64)[None])[0]
        wanted = feature_at(self.scene, features, place)
        found = scene_relevancy(features, len(scene), wanted, typical_features(features, len(scene), wanted))[:, 0]
        note = "Relevancy. 0.5: as like the clicked place as the scene's other typical features."
        return heat_layer("like the clicked one", found, *heat_range(found), note=note)

    @cached_property
    def objects(self) -> Objects:
        """Of the labels that were given, else of the predicted classes, else of the ground truth."""
        scene = self.scene.gaussians
        if self._labels is not None:
            return objects_of(scene, *self._labels)
        if self._text_encoder is not None and self._source is not None and self.class_names:
            return objects_of(scene, self._predicted, self.class_names)
        if scene.instances is None:
            raise ConfigError("no objects: give --classes with --encoder, or --labels")
        return objects_of(scene, true_objects(scene), self.truth)

    @cached_property
    def _features(self) -> SceneFeatures:
        if self._source is None:
            raise ConfigError("there are no features; give --encoder, --features or --lifted")
        return self._source.open(self.scene)

    @cached_property
    def _text(self) -> F32:
        assert self._text_encoder is not None, "a mode that is offered exists"
        return class_embeddings(self._text_encoder, self.class_names, templates=self.prompts)

    @cached_property
    def _predicted(self) -> Labels:
        return label_scene(self.scene, self._features, self._text)

    def _make(self, mode: str) -> Layer:
        scene = self.scene.gaussians
        if mode == COLOUR:
            return Layer(COLOUR)
        if mode == PREDICTION:
            return class_layer(mode, classify(self._features, len(scene), self._text), self.class_names)
        if mode == LABELS:
            assert self._labels is not None, "a mode that is offered exists"
            return class_layer(mode, self._labels[0].classes, self._labels[1])
        if mode == TRUTH:
            assert scene.labels is not None, "a mode that is offered exists"
            return class_layer(mode, scene.labels, self.truth)
        features = self._features
        if mode != FEATURES:
            assert isinstance(features, HeadedFeatures), "a mode that is offered exists"
            features = features.head(mode.removeprefix(f"{FEATURES}: "))
        return rgb_layer(mode, pca_colours(features, len(scene)), "Principal directions: equal colours, like features.")


def pca_colours(features: SceneFeatures, n: int) -> F32:
    """Colours [N, 3] in [0, 1] of the three principal directions; pale grey where nothing is known."""
    starts = np.unique(np.linspace(0, max(n - _RUN, 0), _RUNS).astype(int))
    sample = np.concatenate([features.rows(int(a), min(n, int(a) + _RUN)) for a in starts])
    known = (sample != 0).any(axis=1)
    basis = PcaColours.fit([sample[known] if known.any() else sample])
    parts = []
    for start in range(0, n, PASS):
        rows = features.rows(start, min(n, start + PASS))
        parts.append(np.where((rows != 0).any(axis=1, keepdims=True), basis(rows), _PALE))
    return np.concatenate(parts).astype(np.float32)
