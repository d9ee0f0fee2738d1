"""What the viewer shows, without any viewer: colours of a scene's Gaussians by mode, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import quats_to_rotations
from chorus_common.text import TextEncoder
from evaluation.features import PASS, FeatureSource, SceneFeatures
from evaluation.heat_picture import heat_range
from evaluation.prompts import class_embeddings
from evaluation.relevancy import query_embeddings, scene_relevancy
from evaluation.report.colours import PcaColours, class_palette, heat
from evaluation.scenes import LoadedScene
from evaluation.tasks.zero_shot import classify

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

COLOUR, FEATURES, PREDICTION, TRUTH, QUERY = "colour", "features (PCA)", "prediction", "ground truth", "query"


@dataclass(frozen=True, eq=False)
class Shown:
    """colors [N, 3] f32 in [0, 1], and a legend in Markdown."""

    colors: F32
    legend: str


class SceneModel:
    """One scene, its features and the questions that can be asked about them. Everything is computed once, when it is
    first asked for.

    Args:
        source, text_encoder: features and the text side of their space; without them only colour and truth are shown.
        class_names: what predictions and truth are called; () where the scene has no label space.
    """

    def __init__(
        self,
        scene: LoadedScene,
        source: FeatureSource | None,
        text_encoder: TextEncoder | None,
        class_names: tuple[str, ...],
        prompts: str = "rooms",
    ) -> None:
        self.scene, self.class_names, self.prompts = scene, class_names, prompts
        self._source, self._text_encoder = source, text_encoder
        self._heat: dict[str, F32] = {}

    @property
    def modes(self) -> tuple[str, ...]:
        """Modes that this scene has, in the order in which they are offered."""
        modes = [COLOUR]
        if self._source is not None:
            modes += [FEATURES, QUERY]
            if self.class_names:
                modes.insert(2, PREDICTION)
        if self.scene.gaussians.labels is not None and self.class_names:
            modes.append(TRUTH)
        return tuple(modes)

    def show(self, mode: str, query: str = "") -> Shown:
        """Colours and legend of a mode. Raises ConfigError for one that the scene does not have."""
        if mode not in self.modes:
            raise ConfigError(f"unknown mode '{mode}'; known: {', '.join(self.modes)}")
        if mode == FEATURES:
            return Shown(self._pca, "Principal directions of the features: equal colours, equal features.")
        if mode == PREDICTION:
            return self._classes(self._prediction)
        if mode == TRUTH:
            assert self.scene.gaussians.labels is not None, "a mode that is offered exists"
            return self._classes(self.scene.gaussians.labels)
        if mode == QUERY and query.strip():
            return self._answer(query.strip())
        colours = self.scene.gaussians.colors
        return Shown(colours, "Type a query." if mode == QUERY else "The Gaussians' own colours.")

    def covariances(self) -> F32:
        """[N, 3, 3] m^2."""
        gaussians = self.scene.gaussians
        axes = quats_to_rotations(gaussians.quats) * gaussians.scales[:, None, :]  # [N, 3, 3]
        return (axes @ axes.transpose(0, 2, 1)).astype(np.float32)

    def start(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(position [3], look-at [3]) of the first view: from within an upper corner of the scene's box to its lower
        middle. From outside a room shows its ceiling and nothing else.
        """
        low, high = np.percentile(self.scene.gaussians.means, [2, 98], axis=0).astype(np.float64)
        size = high - low
        return low + np.array([0.92, 0.08, 0.85]) * size, low + np.array([0.5, 0.5, 0.3]) * size

    @cached_property
    def _features(self) -> SceneFeatures:
        assert self._source is not None, "a mode that is offered exists"
        return self._source.open(self.scene)

    @cached_property
    def _pca(self) -> F32:
        n = len(self.scene.gaussians)
        rows = np.concatenate([self._features.rows(a, min(n, a + PASS)) for a in range(0, n, PASS)])
        known = (rows != 0).any(axis=1)
        colours = PcaColours.fit([rows[known] if known.any() else rows])(rows)
        return np.where(known[:, None], colours, np.float32(0.85)).astype(np.float32)

    @cached_property
    def _prediction(self) -> I32:
        assert self._text_encoder is not None, "a mode that is offered exists"
        text = class_embeddings(self._text_encoder, self.class_names, templates=self.prompts)
        return classify(self._features, len(self.scene.gaussians), text)

    def _classes(self, classes: I32) -> Shown:
        palette = class_palette(self.class_names)
        counts = np.bincount(classes[classes >= 0], minlength=len(self.class_names))
        lines = [
            f'<span style="color:{_hex(palette[k])}">&#9632;</span> {self.class_names[k]} '
            f"{100 * counts[k] / max(len(classes), 1):.1f} %"
            for k in np.argsort(-counts, kind="stable")
            if counts[k]
        ]
        return Shown(palette[classes], "<br/>".join(lines))

    def _answer(self, query: str) -> Shown:
        assert self._text_encoder is not None, "a mode that is offered exists"
        if query not in self._heat:
            texts = query_embeddings(self._text_encoder, [query], self.prompts)
            self._heat[query] = scene_relevancy(self._features, len(self.scene.gaussians), *texts)[:, 0]
        found = self._heat[query]
        low, high = heat_range(found)
        legend = (
            f"Relevancy to “{_escape(query)}”: blue {low:.2f} to red {high:.2f}. 0.5: as near as the canonical phrases."
        )
        return Shown(heat(found, low, high), legend)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _hex(colour: F32) -> str:
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in colour)
