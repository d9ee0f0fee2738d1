"""Study of GaussianCross pretraining: three attributes against any two, no pretraining, Chorus's distillation.

    python -m evaluation.studies.gaussiancross --store S --manifest M --captures C --out RUN

Every encoder is pretrained on the rooms of the train split and judged on the val split: linear probe with all labels,
with labels of few rooms, with few labels per room; full fine-tuning (semantic mIoU) with instances (AP50); effective
rank of the features. The row "chorus" is a student of the same architecture, distilled for as many steps of as many
rooms from the lifted features of the same caches. Killed or interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

from chorus_common.runtime.atomic import write_text_atomically
from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import CacheError, run_cli
from evaluation.data_efficiency import LimitConfig, drawn_points, drawn_scenes
from evaluation.features import encode_latent
from evaluation.finetuning.settings import FineTuneConfig, FineTuneOptimSettings
from evaluation.metrics.semantic import ConfusionMatrix
from evaluation.results import text_table
from evaluation.scenes import EvalScene, Selection, select_scenes
from evaluation.splits import labelled_pair
from evaluation.studies.distillation.plan import STUDENT
from evaluation.tasks.finetune import FineTuneJob, finetune
from evaluation.tasks.probe import ProbeConfig, fit_linear, random_twin
from stage2_distill.commands.train import run_training
from stage2_distill.encoder import Encoder, load_encoder
from stage2_distill.gaussiancross.feature_rank import effective_rank
from stage2_distill.gaussiancross.recipe import pretrain
from stage2_distill.gaussiancross.scenes import open_capture_scenes
from stage2_distill.gaussiancross.settings import GaussianCrossConfig
from stage2_distill.settings import TrainConfig

F32 = NDArray[np.float32]
#: Recipe -> settings on top of the file's. "scratch" is the same architecture without pretraining.
RECIPES: dict[str, tuple[str, ...]] = {
    "full": (),
    "no appearance": ("loss.appearance=0",),
    "no geometry": ("loss.geometry=0",),
    "no semantics": ("loss.semantics=0",),
}
SETTINGS = Path(__file__).with_suffix(".toml")
COLUMNS = ("probe", "few scenes", "few points", "finetune", "ap50", "rank")
DISTILLED = "chorus"
ROWS = (*RECIPES, "scratch", DISTILLED)
#: Labels of the limited columns: per cent of the training rooms, points per room, and points per room of the others.
FEW_SCENES, FEW_POINTS, POINTS = 10.0, 20, 1024
#: The encoder learns as fast as the heads: anything less would hold back the one that starts from nothing.
FINETUNE = FineTuneConfig(
    task="instance", mode="full", steps=120, batch_size=2, max_points=8000, workers=0,
    optim=FineTuneOptimSettings(lr=5e-3, encoder_lr_scale=1.0),
)  # fmt: skip
#: Fine-tunings per encoder, whose mean counts: so short a training scatters by as much as rows differ.
TUNINGS = 3


@click.command()
@click.option("--store", type=click.Path(path_type=Path), required=True)
@click.option("--manifest", type=click.Path(path_type=Path), required=True)
@click.option("--captures", type=click.Path(path_type=Path), help="Default: pictures kept in the cache.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--seed", "seeds", multiple=True, default=(0, 1, 2), show_default=True, help="May run as commands apart.")
@click.option("--finetune/--no-finetune", "tune", default=True, help="Columns that need training of whole networks.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Of the pretraining.")
def study(
    store: Path, manifest: Path, captures: Path | None, out: Path, seeds: tuple[int, ...], tune: bool,
    settings: tuple[str, ...],
) -> None:  # fmt: skip
    """Pretrain, judge, and write OUT/results.json with a table of means and deviations over seeds."""
    torch.set_num_threads(1)
    train, val = select_scenes([store], manifest, "train"), select_scenes([store], manifest, "val")
    names, space = labelled_pair(train, val)
    for seed in seeds:
        for row in ROWS:
            folder = out / f"{row.replace(' ', '-')}-{seed}"
            config = load_config(GaussianCrossConfig, SETTINGS, (*settings, *RECIPES.get(row, ()), f"seed={seed}"))
            if row == "scratch":
                encoder = random_twin(load_encoder(out / f"full-{seed}"), seed)
            elif row == DISTILLED:
                encoder = _distil(store, manifest, folder, config)
            else:
                encoder = _pretrain(store, manifest, captures, folder, config)
            _judge(encoder, train, val, names, folder, seed)
            if tune:
                _tune(encoder, train, val, names, space, folder, seed)
            click.echo(summary(out))
    write_text_atomically(out / "results.json", json.dumps(collect(out), indent=2, sort_keys=True) + "\n")


def _pretrain(store: Path, manifest: Path, captures: Path | None, folder: Path, config: GaussianCrossConfig) -> Encoder:
    """The encoder of a pretraining run in `folder`, which is done or continued unless it is finished."""
    if not (folder / "scores.json").exists():
        data = open_capture_scenes([store], manifest, "train", captures, 0.001, config, click.echo)
        pretrain(config, data, folder, torch.device("cpu"))
    return load_encoder(folder)


def _distil(store: Path, manifest: Path, folder: Path, like: GaussianCrossConfig) -> Encoder:
    """The encoder of a student that saw as many rooms as `like` shows, with the losses of studies/distillation."""
    if not (folder / "scores.json").exists():
        config = load_config(TrainConfig, STUDENT, (f"seed={like.seed}", f"epochs={like.epochs}"))
        config = config.model_copy(update={"encoder": like.encoder, "batch_size": like.batch_size})
        run_training(config, [store], manifest, "train", None, folder, "cpu")
    return load_encoder(folder)


def _judge(encoder: Encoder, train: Selection, val: Selection, names: tuple[str, ...], folder: Path, seed: int) -> None:
    """Write probes and rank to folder/scores.json unless they are there."""
    path = folder / "scores.json"
    if not path.exists():
        write_text_atomically(path, json.dumps(_probes(encoder, train, val, names, seed)))


def _tune(
    encoder: Encoder, train: Selection, val: Selection, names: tuple[str, ...], space: str, folder: Path, seed: int
) -> None:
    """Add the scores of full fine-tunings with instances to folder/scores.json unless they are there."""
    path = folder / "scores.json"
    scores: dict[str, float] = json.loads(path.read_text())
    if "ap50" in scores:
        return
    found: dict[str, list[float]] = {"finetune": [], "ap50": []}
    for number in range(TUNINGS):
        config = FINETUNE.model_copy(update={"seed": TUNINGS * seed + number})
        job = FineTuneJob(config, space, names, {"row": encoder}, folder / "tune" / str(number))
        body, *_ = finetune(job, replace(train, scenes=list(train.scenes)), replace(val, scenes=list(val.scenes)))
        row = body["rows"]["row"]
        found["finetune"].append(row["miou"])
        found["ap50"].append(row["instances"]["ap50"])
    write_text_atomically(path, json.dumps(scores | {name: float(np.mean(v)) for name, v in found.items()}))


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
    """Row -> column -> a value per seed that is done, in the order of the seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in ROWS:
        for path in sorted(out.glob(f"{row.replace(' ', '-')}-*/scores.json")):
            scores: dict[str, float] = json.loads(path.read_text())
            for column in COLUMNS:
                if column in scores:
                    found.setdefault(row, {}).setdefault(column, []).append(scores[column])
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
