"""Study of GaussianCross pretraining: three attributes against any two of them and against no pretraining.

    python -m evaluation.studies.gaussiancross --store S --manifest M --captures C --out RUN

Every encoder is pretrained on some rooms of the train split and judged on the val split: linear probe with all labels,
with labels of few rooms, with few labels per room; full fine-tuning (semantic mIoU) with instances (AP50); effective
rank of the features. Killed or interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

from chorus_common.atomic import write_text_atomically
from chorus_common.config import load_config
from chorus_common.errors import CacheError, run_cli
from evaluation.data_efficiency import LimitConfig, drawn_points, drawn_scenes
from evaluation.features import encode_latent
from evaluation.finetuning.settings import FineTuneConfig
from evaluation.metrics.semantic import ConfusionMatrix
from evaluation.results import text_table
from evaluation.scenes import EvalScene, Selection, select_scenes
from evaluation.splits import labelled_pair
from evaluation.tasks.finetune import FineTuneJob, finetune
from evaluation.tasks.probe import ProbeConfig, fit_linear, random_twin
from stage2_distill.encoder import Encoder, load_encoder
from stage2_distill.gaussiancross.feature_rank import effective_rank
from stage2_distill.gaussiancross.scenes import open_capture_scenes
from stage2_distill.gaussiancross.settings import GaussianCrossConfig
from stage2_distill.gaussiancross.trainer import Pretrainer

F32 = NDArray[np.float32]
#: Recipe -> settings on top of the file's. "scratch" is the same architecture without pretraining.
RECIPES: dict[str, tuple[str, ...]] = {
    "full": (),
    "no appearance": ("loss.appearance=0",),
    "no geometry": ("loss.geometry=0",),
    "no semantics": ("loss.semantics=0",),
}
COLUMNS = ("probe", "few scenes", "few points", "finetune", "ap50", "rank")
#: Labels of the limited columns: per cent of the training rooms, points per room, and points per room of the others.
FEW_SCENES, FEW_POINTS, POINTS = 25.0, 20, 1024
FINETUNE = FineTuneConfig(task="instance", mode="full", steps=30, batch_size=2, max_points=6000)


@click.command()
@click.option("--store", type=click.Path(path_type=Path), required=True)
@click.option("--manifest", type=click.Path(path_type=Path), required=True)
@click.option("--captures", type=click.Path(path_type=Path), help="Default: pictures kept in the cache.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--scenes", default=8, show_default=True, help="Rooms of the train split that are used.")
@click.option("--seed", "seeds", multiple=True, default=(0, 1, 2), show_default=True, help="May run as commands apart.")
@click.option("--finetune/--no-finetune", "tune", default=True, help="Columns that need training of whole networks.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Of the pretraining.")
def study(
    store: Path, manifest: Path, captures: Path | None, out: Path, scenes: int, seeds: tuple[int, ...], tune: bool,
    settings: tuple[str, ...],
) -> None:  # fmt: skip
    """Pretrain, judge, and write OUT/results.json with a table of means and deviations over seeds."""
    torch.set_num_threads(1)
    train, val = select_scenes([store], manifest, "train"), select_scenes([store], manifest, "val")
    train.scenes = train.scenes[:scenes]
    names, space = labelled_pair(train, val)
    for seed in seeds:
        for recipe, extra in RECIPES.items():
            folder = _folder(out, recipe, seed)
            chosen = (*settings, *extra, f"seed={seed}")
            encoder = _pretrain(store, manifest, captures, folder, len(train.scenes), chosen)
            judged = {folder: encoder}
            if recipe == "full":
                judged[_folder(out, "scratch", seed)] = random_twin(encoder, seed)
            for where, one in judged.items():
                _judge(one, train, val, names, where, seed)
            for where, one in judged.items() if recipe == "full" and tune else ():
                _tune(one, train, val, names, space, where, seed)
            click.echo(summary(out))
    write_text_atomically(out / "results.json", json.dumps(collect(out), indent=2, sort_keys=True) + "\n")


def _folder(out: Path, recipe: str, seed: int) -> Path:
    return out / f"{recipe.replace(' ', '-')}-{seed}"


def _pretrain(
    store: Path, manifest: Path, captures: Path | None, folder: Path, scenes: int, settings: tuple[str, ...]
) -> Encoder:
    """The encoder of a pretraining run in `folder`, which is done or continued unless it is finished."""
    if not (folder / "scores.json").exists():
        config = load_config(GaussianCrossConfig, Path(__file__).with_suffix(".toml"), settings)
        data = open_capture_scenes([store], manifest, "train", captures, 0.001, config, click.echo, limit=scenes)
        Pretrainer(config, data.scenes, data.channels, data.identity, folder, torch.device("cpu")).run()
    return load_encoder(folder)


def _judge(encoder: Encoder, train: Selection, val: Selection, names: tuple[str, ...], folder: Path, seed: int) -> None:
    """Write probes and rank to folder/scores.json unless they are there."""
    path = folder / "scores.json"
    if not path.exists():
        write_text_atomically(path, json.dumps(_probes(encoder, train, val, names, seed)))


def _tune(
    encoder: Encoder, train: Selection, val: Selection, names: tuple[str, ...], space: str, folder: Path, seed: int
) -> None:
    """Add the scores of full fine-tuning with instances to folder/scores.json unless they are there."""
    path = folder / "scores.json"
    scores: dict[str, float] = json.loads(path.read_text())
    if "ap50" not in scores:
        job = FineTuneJob(FINETUNE.model_copy(update={"seed": seed}), space, names, {"row": encoder}, folder / "tune")
        row = finetune(job, replace(train, scenes=list(train.scenes)), replace(val, scenes=list(val.scenes)))[0]["rows"]
        scores |= {"finetune": row["row"]["miou"], "ap50": row["row"]["instances"]["ap50"]}
        write_text_atomically(path, json.dumps(scores))


def _probes(encoder: Encoder, train: Selection, val: Selection, names: tuple[str, ...], seed: int) -> dict[str, float]:
    """mIoU of linear layers fitted on all, few scenes' and few points' labels, and the rank of the val features."""
    config = ProbeConfig(iterations=100, seed=seed)
    limit = LimitConfig(scenes=FEW_SCENES, points=FEW_POINTS, seed=seed)
    few = set(drawn_scenes([s.scene_id for s in train.scenes], limit.scenes, seed))
    learnt: dict[str, list[tuple[F32, NDArray[np.int32]]]] = {"probe": [], "few scenes": [], "few points": []}
    for scene in train.scenes:
        features, labels = _encode(encoder, scene)
        known = np.flatnonzero(labels >= 0)
        many = drawn_points(known, POINTS, seed, scene.scene_id)
        learnt["probe"].append((features[many], labels[many]))
        if scene.scene_id in few:
            learnt["few scenes"].append((features[many], labels[many]))
        rows = drawn_points(known, FEW_POINTS, seed, scene.scene_id)
        learnt["few points"].append((features[rows], labels[rows]))
    heads = {}
    for name, parts in learnt.items():
        x, y = (np.concatenate(part) for part in zip(*parts))
        heads[name] = fit_linear(x, y, len(names), config)
    totals = {name: ConfusionMatrix(names) for name in heads}
    some = []
    for scene in val.scenes:
        features, labels = _encode(encoder, scene)
        some.append(features[::16])
        for name, head in heads.items():
            totals[name].add(labels, head.predict(features), who=scene.name)
    scores = {name: float(total.scores().miou) for name, total in totals.items()}
    return scores | {"rank": effective_rank(np.concatenate(some))}


def _encode(encoder: Encoder, scene: EvalScene) -> tuple[F32, NDArray[np.int32]]:
    gaussians = scene.open().scene()
    if gaussians.labels is None:
        raise CacheError(f"{scene.name}: has no labels")
    return encode_latent(encoder, gaussians), gaussians.labels


def collect(out: Path) -> dict[str, dict[str, list[float]]]:
    """recipe -> column -> a value per seed that is done, in the order of the seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for recipe in (*RECIPES, "scratch"):
        for path in sorted(out.glob(f"{recipe.replace(' ', '-')}-*/scores.json")):
            scores: dict[str, float] = json.loads(path.read_text())
            for column in COLUMNS:
                if column in scores:
                    found.setdefault(recipe, {}).setdefault(column, []).append(scores[column])
    return found


def summary(out: Path) -> str:
    """The table: mean and standard deviation over seeds."""
    rows = []
    for recipe, columns in collect(out).items():
        cells = [f"{np.mean(v):.3f} ± {np.std(v):.3f}" if (v := columns.get(c)) else "" for c in COLUMNS]
        rows.append((recipe, *cells))
    return text_table(("", *COLUMNS), rows)


if __name__ == "__main__":
    run_cli(study)
