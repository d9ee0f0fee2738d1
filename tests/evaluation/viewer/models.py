"""A toy room with perfect features, for the viewer's tests."""

from __future__ import annotations

import numpy as np

from chorus_common.labels import SCANNET20
from evaluation.features import ArrayFeatures
from evaluation.prompts import class_embeddings
from evaluation.scenes import EvalScene, LoadedScene
from evaluation.viewer.scene_model import SceneModel
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


def toy_model(n: int, *, features: bool = True, labels: bool = True) -> SceneModel:
    scene = LoadedScene(EvalScene("toy", "room"), make_scene(0, n, labels=labels), None)
    source = TruthFeatures() if features else None
    return SceneModel(scene, source, WordVectors() if features else None, SCANNET20 if labels else (), prompts="plain")
