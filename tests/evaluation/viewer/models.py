"""Toy rooms with perfect features, for the viewer's tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chorus_common.labels import SCANNET20
from evaluation.features import ArrayFeatures
from evaluation.prompts import class_embeddings
from evaluation.scenes import EvalScene, LoadedScene
from evaluation.viewer.scene_model import SceneModel
from tests.evaluation.instance_rooms import room_with_instances
from tests.evaluation.rooms import WordVectors, make_scene


class TruthFeatures:
    """The embedding of each Gaussian's class by its bare name, as an encoder that sums words would have those of a
    template in every class; zeros where it has none.
    """

    def open(self, scene: LoadedScene) -> ArrayFeatures:
        labels = scene.gaussians.labels
        assert labels is not None
        text = class_embeddings(WordVectors(), SCANNET20, templates="plain")
        return ArrayFeatures(np.where(labels[:, None] >= 0, text[labels], 0).astype(np.float32))


@dataclass(frozen=True)
class GivenFeatures:
    """These features, in the scene's order."""

    values: np.ndarray

    def open(self, scene: LoadedScene) -> ArrayFeatures:
        return ArrayFeatures(self.values)


def toy_model(n: int, *, features: bool = True, labels: bool = True) -> SceneModel:
    """A floor, a wall, a chair and a table; features say the class."""
    scene = LoadedScene(EvalScene("toy", "room"), make_scene(0, n, labels=labels), None)
    source = TruthFeatures() if features else None
    names = SCANNET20 if labels else ()
    encoder = WordVectors() if features else None
    return SceneModel(scene, source, encoder, names, prompts="plain", truth=names)


def room_model(*, features: bool = True, per_box: int = 150) -> SceneModel:
    """Furniture with instances, far enough apart to be told apart."""
    scene = LoadedScene(EvalScene("toy", "room"), room_with_instances(0, per_box), None)
    source, encoder = (TruthFeatures(), WordVectors()) if features else (None, None)
    return SceneModel(scene, source, encoder, SCANNET20, prompts="plain", truth=SCANNET20)
