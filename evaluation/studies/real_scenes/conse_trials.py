"""Why ConSE is low on a store of scans, and what other ways to ask the same classifier would give.

    python -m evaluation.studies.real_scenes.conse_trials --store S --out trials.json

The store holds features of EfficientNet-Lite0 before pooling (timm:tf_efficientnet_lite0/16:lite0). Its head
is applied to them cell by cell, a variant makes class scores of its answers, and the scores are lifted: lifting is
linear, so this is the lifted teacher of that variant. Beside mIoU stands the mean area under the ROC curve over the
classes: whether a class's score is higher on its own points, whatever the other classes' scores are. 0.5 is chance.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import EXIT_DONE, SceneError, run_cli
from chorus_common.runtime.packaged_weights import packaged_file
from chorus_common.runtime.progress import progress
from chorus_common.runtime.weight_files import read_state_dict
from chorus_common.text.conse_text import ConseTextEncoder, name_vectors
from chorus_common.text.sentence_encoder import load_sentence_encoder
from evaluation.commands.options import result_option, scene_options
from evaluation.prompts import class_embeddings
from evaluation.results import result_document, text_table, write_result
from evaluation.scenes import SceneOptions
from evaluation.studies.real_scenes.lifted_scores import LabelledScenes, lifted_mean, score_lifted
from evaluation.studies.real_scenes.plan import CONSE, FINE_BACKBONE
from evaluation.studies.real_scenes.store_features import cells_of, standardiser_of

F32 = NDArray[np.float32]

#: ImageNet's first classes are its animals.
ANIMALS = 398


@dataclass(frozen=True)
class Texts:
    """Class names of ImageNet [1000, C] and queries [K, C], unit rows from the mean of the class names; the names' own
    lengths [1000].
    """

    names: F32
    lengths: F32
    queries: F32

    @property
    def likeness(self) -> F32:
        """Cosines [1000, K]."""
        return self.names @ self.queries.T


#: Logits [n, 1000] -> scores [n, K].
Variant = Callable[[F32, Texts], F32]


def softmax(logits: F32, temperature: float = 1.0) -> F32:
    """Over the last axis."""
    scaled = logits / temperature
    p = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(p / p.sum(axis=-1, keepdims=True), dtype=np.float32)


def likeliest(probability: F32, top: int) -> F32:
    """The `top` largest of every row, made to sum to one; the others are zero."""
    at = np.argpartition(-probability, top - 1, axis=1)[:, :top]
    kept = np.zeros_like(probability)
    np.put_along_axis(kept, at, np.take_along_axis(probability, at, axis=1), axis=1)
    return kept / kept.sum(axis=1, keepdims=True)


def conse(probability: F32, texts: Texts) -> F32:
    """Scores of the mean of the names' vectors, which keep their lengths, as the teacher's do."""
    return probability @ (texts.likeness * texts.lengths[:, None])


def without_animals(logits: F32, texts: Texts) -> F32:
    things = logits.copy()
    things[:, :ANIMALS] = -np.inf
    return conse(likeliest(softmax(things), 10), texts)


def nearest_names(logits: F32, texts: Texts) -> F32:
    """A class speaks for a query by a softmax over the names (temperature 0.05): few names count."""
    return softmax(logits) @ softmax(texts.likeness.T, 0.05).T


VARIANTS: dict[str, Variant] = {
    "ten likeliest classes": lambda z, t: conse(likeliest(softmax(z), 10), t),
    "one": lambda z, t: conse(likeliest(softmax(z), 1), t),
    "all": lambda z, t: conse(softmax(z), t),
    "all, temperature 0.5": lambda z, t: conse(softmax(z, 0.5), t),
    "all, temperature 2": lambda z, t: conse(softmax(z, 2.0), t),
    "ten likeliest, without animals": without_animals,
    "names near the query alone": nearest_names,
}


def read_head() -> tuple[F32, F32]:
    """(weight [1000, 1280], bias [1000]) of the packaged classifier."""
    state = read_state_dict(packaged_file("lite0", "ImageNet backbone", "run: make real-teachers"))
    return state["classifier.weight"].numpy(), state["classifier.bias"].numpy()


def read_texts(class_names: tuple[str, ...]) -> Texts:
    encoder = ConseTextEncoder(CONSE.spec)
    names = name_vectors(load_sentence_encoder(CONSE.spec.rpartition(":")[2]))
    away = names - names.mean(axis=0)
    lengths = np.linalg.norm(away, axis=1)
    return Texts(away / lengths[:, None], lengths, class_embeddings(encoder, class_names, templates="plain"))


@click.command("conse-trials", context_settings={"show_default": True})
@scene_options
@result_option
def command(scenes: SceneOptions, out: Path) -> int:
    """Ask the classifier in other ways."""
    selection, class_names, space = scenes.labelled()
    texts, (weight, bias) = read_texts(class_names), read_head()
    standardiser = standardiser_of(selection.scenes[0], FINE_BACKBONE)
    lifted: dict[str, list[F32]] = {name: [] for name in VARIANTS}
    truths: list[NDArray[np.int32]] = []
    means: list[F32] = []
    with progress(len(selection.scenes), "trials") as reporter:
        for where in selection.scenes:
            scene = where.load(space)
            cache = scene.cached()
            index, features = cache.lifting(), cells_of(cache, FINE_BACKBONE)
            scores: dict[str, list[F32]] = {name: [] for name in VARIANTS}
            for view in features:
                logits = standardiser.inverse(view) @ weight.T + bias  # [cells, 1000]
                for name, variant in VARIANTS.items():
                    scores[name].append(variant(logits, texts))
            for name, of_views in scores.items():
                sums, seen = index.lift(np.concatenate(of_views).astype(np.float32))
                lifted[name].append(lifted_mean(sums, seen))
            if scene.gaussians.labels is None:
                raise SceneError(f"{scene.name}: has no labels; the trials are scored on them")
            truths.append(scene.gaussians.labels)
            means.append(scene.gaussians.means)
            reporter.advance(1, where.name)
    labelled = LabelledScenes(class_names, truths, means)
    rows = {
        name + decision: row
        for name, parts in lifted.items()
        for decision, row in score_lifted(parts, labelled).items()
    }
    line = shlex.join(["python", "-m", "evaluation.studies.real_scenes.conse_trials", *sys.argv[1:]])
    write_result(out, result_document("conse-trials", line, scenes.inputs(), {"rows": rows}))
    table = [(name, r["miou"], r["f_miou"], r["auc"]) for name, r in rows.items()]
    click.echo(text_table(("", "mIoU", "f-mIoU", "mean AUC"), table))
    return EXIT_DONE


if __name__ == "__main__":
    run_cli(command)
