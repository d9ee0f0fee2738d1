"""Every published recipe loads as it is, and runs at toy size on rooms in the raw layouts of its data sets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from chorus_common.runtime.config import Config, load_config
from evaluation.batch.matrix import BatchConfig, cells
from evaluation.cli import cli
from evaluation.commands.finetune import finetune_command
from evaluation.finetuning.settings import FineTuneConfig
from stage1_render_teachers.commands.run import run_command
from stage1_render_teachers.settings import Stage1Config
from stage1_render_teachers.teachers import teacher_name
from stage2_distill.commands.adapt import adapt_command
from stage2_distill.commands.export import export_command
from stage2_distill.commands.field import train as train_field_command
from stage2_distill.commands.gaussiancross import gaussiancross_command
from stage2_distill.commands.train import train_command
from stage2_distill.encoder import load_encoder
from stage2_distill.fields.settings import FieldConfig
from stage2_distill.gaussiancross.settings import GaussianCrossConfig
from stage2_distill.settings import AdaptConfig, TrainConfig
from stage2_distill.student import load_student
from tests.evaluation.recipe_rooms import (
    RECIPES,
    TOY_STAGE1,
    RecipeRooms,
    call,
    make_recipe_rooms,
    records,
    settings,
    teachers,
)

KINDS: dict[str, type[Config]] = {
    "stage1": Stage1Config, "train": TrainConfig, "join": TrainConfig, "adapt": AdaptConfig, "field": FieldConfig,
    "pretrain": GaussianCrossConfig, "finetune": FineTuneConfig, "linear": FineTuneConfig, "decoder": FineTuneConfig,
    "full": FineTuneConfig, "instances": FineTuneConfig, "paper": BatchConfig,
}  # fmt: skip
FILES = sorted(p.relative_to(RECIPES).as_posix() for p in RECIPES.glob("*/*.toml"))

TOY = ("epochs=1", "batch_size=2", "threads=1", "data.workers=0")
TOY_CHORUS = (*TOY, "projector_hidden=24", "data.max_voxels=1500", "data.chunks.min_rows=100")
TINY = ("encoder.overrides.enc_channels=[16,32]", "encoder.overrides.enc_num_head=[1,2]", "encoder.overrides.upcast=1")
TOY_PROBE = ("steps=2", "batch_size=2", "max_points=1500", "threads=1", "workers=0")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> RecipeRooms:
    return make_recipe_rooms(tmp_path_factory.mktemp("recipes"))


@pytest.fixture(scope="module")
def student(rooms: RecipeRooms, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What chorus-3dgs/train.toml trains on all three data sets."""
    out = tmp_path_factory.mktemp("chorus") / "run"
    train(rooms, out, "chorus-3dgs/train.toml", *TOY_CHORUS, *TINY, "teachers.lang.labels.start=0")
    return out


def train(rooms: RecipeRooms, out: Path, recipe: str, *pairs: str, dataset: str = "") -> None:
    chosen = ("--manifest", rooms.manifests[dataset], "--split", "train") if dataset else ()
    call(train_command, "--store", rooms.store, *chosen, "--config", RECIPES / recipe, *settings(*pairs), "--out", out)
    assert all(math.isfinite(float(str(r["loss"]))) for r in records(out))


@pytest.mark.parametrize("file", FILES)
def test_a_recipe_loads_as_it_is(file: str) -> None:
    kind = KINDS[Path(file).stem]
    config = load_config(kind, RECIPES / file, ["student=RUN"] if kind is AdaptConfig else [])
    assert type(config).model_validate(config.model_dump()) == config
    if isinstance(config, BatchConfig):
        for cell in cells(config):  # its commands are commands, and the recipes that they name are there
            values = dict(zip(cell.arguments[1::2], cell.arguments[2::2]))
            assert Path(values.get("--config", ".")).exists()
            command = cli.lazy[cell.command].load()
            command.make_context(cell.command, [*cell.arguments[1:], "--out", "result.json"])
    if isinstance(config, TrainConfig):
        beside = load_config(Stage1Config, RECIPES / (file.split("/")[0].replace("-pts", "-3dgs")) / "stage1.toml")
        assert set(config.teachers) <= {
            teacher_name(t) for t in beside.teachers
        }  # its teachers are those of its caches


@pytest.mark.parametrize("file", [f for f in FILES if f.endswith("stage1.toml")])
def test_caches(file: str, rooms: RecipeRooms, tmp_path: Path) -> None:
    names = [teacher_name(t) for t in load_config(Stage1Config, RECIPES / file).teachers]
    pooled = "mask_embeddings=pooled"  # the embedded teacher sees no crops
    call(
        run_command, "--manifest", rooms.manifests["scannet"], "--split", "val", "--store", tmp_path / "store",
        "--config", RECIPES / file, *teachers(*names), *settings(*TOY_STAGE1, pooled),
    )  # fmt: skip
    assert sorted(p.stem for p in (tmp_path / "store" / "standardisers").iterdir()) == sorted(set(names) - {"sam"})


def test_chorus_3dgs(student: Path, rooms: RecipeRooms, tmp_path: Path) -> None:
    assert {t.space for t in load_student(student).config.teachers.values()} == {"unit"}
    joined = tmp_path / "joined"
    train(rooms, joined, "chorus-3dgs/join.toml", *TOY_CHORUS, f"student={student}", dataset="scannetpp")
    assert "labels" in records(joined)[0]["teachers"]["pe_spatial"]  # type: ignore[index]
    call(export_command, joined, "--layout", "release", "--out", tmp_path / "x.pth")
    assert load_student(tmp_path / "x.pth").teachers == ("dino", "lang", "pe_spatial")


def test_chorus_pts(rooms: RecipeRooms, tmp_path: Path) -> None:
    train(rooms, tmp_path / "run", "chorus-pts/train.toml", *TOY_CHORUS, *TINY, dataset="scannetpp")
    train(
        rooms,
        tmp_path / "joined",
        "chorus-pts/join.toml",
        *TOY_CHORUS,
        f"student={tmp_path / 'run'}",
        dataset="scannetpp",
    )
    call(export_command, tmp_path / "joined", "--layout", "release", "--out", tmp_path / "x.pth")
    assert load_student(tmp_path / "x.pth").encoder.config.in_channels == 9


def test_chorus_lite(rooms: RecipeRooms, tmp_path: Path) -> None:
    small = ("encoder.overrides.enc_channels=[16,32]", "teachers.dino.masks.start=0", "teachers.dino.masks.cover=0.0")
    train(rooms, tmp_path / "run", "chorus-lite/train.toml", *TOY, *small, "data.max_points=3000")
    terms = records(tmp_path / "run")[0]["teachers"]
    assert "prototypes" in terms["lang"]  # type: ignore[index]
    assert "masks" in terms["dino"]  # type: ignore[index]


def test_scenesplat(rooms: RecipeRooms, tmp_path: Path) -> None:
    """Without a projector: the decoder is as wide as the teacher, and the encoder alone is a SceneSplat checkpoint."""
    train(
        rooms, tmp_path / "run", "scenesplat/train.toml", *TOY, "data.max_voxels=1500", "data.chunks.min_rows=100",
        "data.weights={ scannet = 1, scannetpp = 2, matterport3d = 3 }", "teachers.lang.labels.start=0",
        "encoder.overrides.enc_channels=[16,32]", "encoder.overrides.enc_num_head=[1,2]",
        "encoder.overrides.dec_channels=[64]", "encoder.overrides.dec_num_head=[4]",
    )  # fmt: skip
    call(export_command, tmp_path / "run", "--encoder-only", "--layout", "scenesplat", "--out", tmp_path / "x.pth")
    assert (
        load_encoder(tmp_path / "x.pth").out_channels == load_student(tmp_path / "run").config.teachers["lang"].channels
    )


def test_adaptation(student: Path, rooms: RecipeRooms, tmp_path: Path) -> None:
    call(
        adapt_command, "--student", student, "--store", rooms.store, "--manifest", rooms.manifests["matterport3d"],
        "--config", RECIPES / "adapt-2d" / "adapt.toml", *settings(*TOY, "projector_hidden=24", "data.cover=0.0"),
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert load_student(tmp_path / "run").teachers == ("dino", "dino_b", "lang")


@pytest.mark.parametrize(
    ("file", "dataset"),
    [("probes/linear.toml", "s3dis"), ("probes/decoder.toml", "scannet"), ("probes/full.toml", "scannet"),
     ("probes/instances.toml", "scannet"), ("gaussiancross/linear.toml", "scannet"),
     ("gaussiancross/finetune.toml", "s3dis")],
)  # fmt: skip
def test_probes(file: str, dataset: str, student: Path, rooms: RecipeRooms, tmp_path: Path) -> None:
    call(
        finetune_command, "--manifest", rooms.manifests[dataset], "--encoder", student, "--config", RECIPES / file,
        *settings(*TOY_PROBE, "decoder.min_channels=16"), "--out", tmp_path / "r.json",
    )  # fmt: skip
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["inputs"]["config"]["steps"] == 2


def test_gaussiancross(rooms: RecipeRooms, tmp_path: Path) -> None:
    call(
        gaussiancross_command, "--store", rooms.store, "--manifest", rooms.manifests["scannet"], "--config",
        RECIPES / "gaussiancross" / "pretrain.toml",
        *settings(
            *TOY, "head.grid=[8,8,4]", "head.width=8", "data.views=1", "encoder.overrides.enc_channels=[16,32]",
            "data.max_points=3000", "teachers=['dino']",
        ),
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert records(tmp_path / "run")


def test_gags(rooms: RecipeRooms, tmp_path: Path) -> None:
    scene = sorted((rooms.store / "scannet").glob("*.zarr"))[0]
    call(
        train_field_command, "--scene", scene, "--config", RECIPES / "gags" / "field.toml",
        *settings("iterations=4", "decoder_width=16", "granularity_widths=[8]", "threads=1"), "--out", tmp_path / "f",
    )  # fmt: skip
    assert (tmp_path / "f" / "field.json").is_file()
