"""Where a fine-tuned model fails: its worst scenes from above, truth beside prediction beside errors.

The model is put together again from the run's folder, so that no prediction needs to be kept on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import look_at, pinhole
from chorus_common.labels import LABEL_SPACES
from chorus_common.rasterize import render_values
from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.store_path import parse_store_path
from chorus_common.scene import GaussianScene
from evaluation.finetuning.model import Segmentor, build_segmentor
from evaluation.finetuning.predict import predict
from evaluation.finetuning.settings import FineTuneConfig
from evaluation.report.charts import picture_png
from evaluation.report.colours import class_palette
from evaluation.report.pictures import Panel, ViewPictures
from evaluation.scenes import EvalScene, select_scenes
from stage2_distill.encoder import load_encoder
from stage2_distill.engine.checkpointing import load_weights

F32 = NDArray[np.float32]

#: Longer side of the pictures in pixels, and what is cut off at the top: ceilings and lamps would hide the room.
_SIZE = 384
_CUT = 0.2
_RIGHT = np.array([0.80, 0.83, 0.86], dtype=np.float32)
_WRONG = np.array([0.88, 0.11, 0.28], dtype=np.float32)


def failure_gallery(document: Mapping[str, Any], n: int) -> list[ViewPictures]:
    """Pictures of the `n` scenes of lowest mIoU of the row `trained` of a fine-tuning result, worst first.

    Raises ConfigError where encoder, scenes or the run's folder are not there any more.
    """
    worst = sorted(document["per_scene"], key=lambda name: (document["per_scene"][name]["trained"]["miou"], name))[:n]
    model = trained_model(document)
    scenes = _scenes(document)
    space = document["inputs"]["label_space"]
    return [_views(model, scenes[name], space, document["per_scene"][name]["trained"]["miou"]) for name in worst]


def trained_model(document: Mapping[str, Any]) -> Segmentor:
    """The model behind the row `trained` of a fine-tuning result."""
    inputs = document["inputs"]
    config = FineTuneConfig.model_validate(inputs["config"])
    state = Path(inputs["run_folder"]) / "trained" / "state.safetensors"
    if not state.is_file():
        raise ConfigError(f"{state}: not there any more, so no gallery can be drawn; use --gallery 0")
    model = build_segmentor(load_encoder(inputs["encoder"]), len(LABEL_SPACES[inputs["label_space"]]), config)
    model.load_state_dict(load_weights(state))
    return model.eval()


def _scenes(document: Mapping[str, Any]) -> dict[str, EvalScene]:
    """The scenes that a result names, by name."""
    inputs = document["inputs"]
    stores = [parse_store_path(s) for s in inputs["stores"]]
    splits = [*inputs["splits"], *(inputs["train_splits"] if inputs["hold_out"] else [])]
    parts = [select_scenes(stores, Path(inputs["manifest"]), split) for split in dict.fromkeys(splits)]
    found = {scene.name: scene for part in parts for scene in part.scenes}
    missing = [name for name in document["per_scene"] if name not in found]
    if missing:
        raise ConfigError(f"scene {missing[0]} of the result is not in {inputs['manifest']} any more; use --gallery 0")
    return found


def _views(model: Segmentor, where: EvalScene, label_space: str, miou: float) -> ViewPictures:
    scene = where.load(label_space).gaussians
    assert scene.labels is not None
    predicted = predict(model, scene).classes()
    names = LABEL_SPACES[label_space]
    palette = class_palette(names)
    known = scene.labels >= 0
    wrong = known & (predicted != scene.labels)
    errors = np.where(wrong[:, None], _WRONG, _RIGHT)
    errors[~known] = palette[-1]
    truth, answer = palette[scene.labels], palette[np.where(known, predicted, -1)]
    pictures = from_above(scene, [scene.colors, truth, answer, errors])
    share = 100 * wrong.sum() / max(1, known.sum())
    captions = (
        ("Picture", "from above, the top of the room cut off"),
        ("Truth", "grey: no label"),
        ("Prediction", "where there is truth"),
        ("Errors", f"red: {share:.0f} % of the labelled Gaussians"),
    )
    key = where.name.replace("/", "_")
    panels = tuple(
        Panel(f"gallery_{key}_{title.lower()}", title, caption, picture_png(picture))
        for (title, caption), picture in zip(captions, pictures)
    )
    shown = np.unique(np.concatenate([scene.labels[known], predicted[known]]))
    legend = tuple((names[c], _hex(palette[c])) for c in shown)
    return ViewPictures(f"{where.name}: mIoU {100 * miou:.1f}", (panels,), legend)


def from_above(scene: GaussianScene, colours: Sequence[F32]) -> list[F32]:
    """The scene in each of `colours` [N, 3], from a fixed place above its middle; [H, W, 3] each."""
    low, high = np.quantile(scene.means, [0.01, 0.99], axis=0).astype(np.float64)
    size = np.maximum(high - low, 1e-3)
    keep = np.flatnonzero(scene.means[:, 2] <= high[2] - _CUT * size[2])
    middle = (low + high) / 2
    width, height = _SIZE, round(_SIZE * float(np.clip(size[1] / size[0], 0.5, 1.5)))
    k = pinhole(width, height, 40)
    # Far enough that both sides fit; a little to the south, so that "up" is defined and fronts are seen.
    reach = 1.15 * max(size[0] * k[0, 0] / width, size[1] * k[1, 1] / height)
    eye = middle + np.array([0.0, -0.25 * reach, reach + size[2] / 2])
    shown = scene.select(keep)
    joined = np.concatenate([c[keep].astype(np.float32) for c in colours], axis=1)
    sums, alpha = render_values(shown, look_at(eye, middle), k, width, height, joined)
    picture = sums + (1 - alpha)[..., None]
    return [picture[..., 3 * i : 3 * i + 3] for i in range(len(colours))]


def _hex(colour: F32) -> str:
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in colour)
