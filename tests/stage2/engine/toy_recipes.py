"""Every recipe at toy size, in this process or as a process of its own:

python -m tests.stage2.engine.toy_recipes NAME OUT [key=value ...]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import run_cli
from evaluation.data_efficiency import Limit
from evaluation.finetuning.data import LabelledDataset
from evaluation.finetuning.model import build_segmentor
from evaluation.finetuning.recipe import FineTuneRecipe
from evaluation.finetuning.settings import FineTuneConfig
from stage2_distill.distill import DistillRecipe
from stage2_distill.encoder import build_encoder
from stage2_distill.engine.loop import Run, RunResult, launch
from stage2_distill.engine.recipe import Recipe
from stage2_distill.fields import FieldConfig
from stage2_distill.fields.recipe import FieldRecipe
from stage2_distill.fields.regions import read_regions
from stage2_distill.gaussiancross.recipe import GaussianCrossRecipe
from tests.evaluation.labelled_rooms import LabelledRooms, make_labelled_rooms, source_scene
from tests.evaluation.student import TINY
from tests.stage2.fields.field_scene import make_field_index, make_masks
from tests.stage2.gaussiancross.small_captures import make_capture_scenes, make_config
from tests.stage2.train_child import tiny_config, tiny_data

CPU = torch.device("cpu")
#: Settings under which no number depends on what else shares a forward pass: several processes then equal one.
SHARED: dict[str, tuple[str, ...]] = {
    "distill": ("optim.lr=2e-4",),
    "gaussiancross": (
        "encoder.overrides.drop_path=0", "encoder.overrides.shuffle_orders=false", "encoder.overrides.norm=layer",
        "optim.lr=2e-4",
    ),
    "field": ("views_per_step=2",),
    "finetune": ("loss.lovasz=0", "loss.balance=balanced", "optim.lr=2e-4"),
}  # fmt: skip


def distill(folder: Path, settings: tuple[str, ...]) -> DistillRecipe:
    return DistillRecipe(tiny_config("epochs=3", "checkpoint_every=2", *settings), tiny_data(), CPU)


def gaussiancross(folder: Path, settings: tuple[str, ...]) -> GaussianCrossRecipe:
    return GaussianCrossRecipe(make_config(*settings), make_capture_scenes(), CPU)


def field(folder: Path, settings: tuple[str, ...]) -> FieldRecipe:
    own = ("decoder_width=16", "decoder_layers=3", "iterations=6", "min_alpha=0.01", "checkpoint_every=2", "threads=1")
    index = make_field_index()
    config = load_config(FieldConfig, None, (*own, *settings))
    regions = read_regions(make_masks(index), "masks", index.grid)
    return FieldRecipe(config, index, regions, range(index.n_views), identity={"config": config.model_dump()})


def finetune(folder: Path, settings: tuple[str, ...]) -> FineTuneRecipe:
    own = ("steps=6", "batch_size=2", "max_points=400", "workers=0", "mode=full", "checkpoint_every=2", "threads=1")
    config = load_config(FineTuneConfig, None, (*own, "optim.lr=0.02", *settings))
    if not (folder / "rooms").exists():  # its files are part of the run's identity
        make_labelled_rooms(folder / "rooms")
    rooms = LabelledRooms(folder / "rooms", folder / "rooms" / "manifest.parquet", folder / "rooms" / "encoder")
    torch.manual_seed(0)
    inputs = {"features": ("coord", "color"), "grid_size": 0.1}
    plain = {"drop_path": 0.0, "shuffle_orders": False} if "loss.lovasz=0" in settings else {}
    encoder = build_encoder("chorus-lite", **TINY, **plain, norm="layer", in_channels=6, inputs=inputs).eval()
    model = build_segmentor(encoder, 20, config)
    scenes = [source_scene(rooms, f"train_{i}") for i in range(3)]
    things = np.array([False, False] + [True] * 18)
    data = LabelledDataset(scenes, "scannet20", things, encoder.config, config, Limit.of(config.limit))
    return FineTuneRecipe(model, data, config, "finetune")


RECIPES: dict[str, Callable[[Path, tuple[str, ...]], Recipe[Any]]] = {
    "distill": distill,
    "gaussiancross": gaussiancross,
    "field": field,
    "finetune": finetune,
}


def run(name: str, out: Path, *settings: str, change: Callable[[Recipe[Any]], None] | None = None) -> RunResult:
    """Train recipe `name` in folder `out`/run. change: what to do to the recipe first."""
    recipe = RECIPES[name](out, settings)
    if change is not None:
        change(recipe)
    with launch(recipe.config, CPU) as processes:
        return Run(recipe, out / "run", processes).train()


def main() -> None:
    name, out, *settings = sys.argv[1:]
    run_cli(lambda: run(name, Path(out), *settings) and None)


if __name__ == "__main__":
    main()
