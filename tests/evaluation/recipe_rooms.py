"""Small rooms in the raw layouts of the data sets that recipes are for, prepared and cached: what recipes run on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from data_manifests.commands.prepare import prepare_command
from data_manifests.commands.synth import synth_command
from stage1_render_teachers.commands.run import run_command

RECIPES = Path("evaluation/recipes")
#: The recipes' names of teachers, and what answers to them here.
EMBEDDED = {
    "lang": "embedded:text", "dino": "embedded:dense", "pe_spatial": "embedded:objects", "dino_b": "embedded:dense",
    "sam": "embedded:masks",
}  # fmt: skip
TOY_STAGE1 = ("width=96", "height=72", "cell=8", "n_views=4", "max_views=4", "rasterizer=cpu", "store_depth=true")


@dataclass(frozen=True)
class RecipeRooms:
    """Manifests by data set; one store with all teachers of EMBEDDED."""

    manifests: dict[str, Path]
    store: Path


def call(command: click.Command, *arguments: object) -> None:
    """A command line in this process; its errors are raised."""
    code = command.main([str(a) for a in arguments], standalone_mode=False)
    assert code in (None, 0), code


def settings(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("--set", pair)]


def teachers(*names: str) -> list[str]:
    return [word for name in names for word in ("--teachers", f"{name}={EMBEDDED[name]}")]


def prepared(root: Path) -> dict[str, Path]:
    """ScanNet and S3DIS from their raw layouts; ScanNet++ and Matterport3D as the 3DGS folders that are released."""
    manifests: dict[str, Path] = {}
    size = ("--gaussians", 1500, "--views", 4, "--width", 96, "--height", 72, "--mesh-step", 0.2)
    for name, rooms in (("scannet", 3), ("s3dis", 2)):
        call(
            synth_command,
            "--out",
            root / "raw" / name,
            "--layout",
            name,
            "--rooms",
            rooms,
            "--val",
            1,
            "--seed",
            7,
            *size,
        )
        call(prepare_command, name, "--root", root / "raw" / name, "--out", root / "scenes" / name)
        manifests[name] = root / "scenes" / name / "manifest.parquet"
    made = sorted((root / "scenes" / "scannet" / "scannet").iterdir())
    for name, source in (("scannetpp", made[0]), ("matterport3d", made[1])):
        for split in ("train", "val"):
            folder = root / "raw" / name / split / f"{name}_{split}"
            folder.mkdir(parents=True)
            for key in ("coord", "color", "opacity", "scale", "quat", "normal", "instance"):
                shutil.copy(source / f"{key}.npy", folder)
            file = "segment" if name == "scannetpp" else "segment_nyu_160"
            np.save(folder / f"{file}.npy", np.load(source / "segment20.npy"))
        call(prepare_command, f"scenesplat_{name}", "--root", root / "raw" / name, "--out", root / "scenes" / name)
        manifests[name] = root / "scenes" / name / "manifest.parquet"
    return manifests


def make_recipe_rooms(root: Path) -> RecipeRooms:
    manifests = prepared(root)
    for name in ("scannet", "scannetpp", "matterport3d"):
        call(
            run_command, "--manifest", manifests[name], "--store", root / "store",
            "--config", RECIPES / "chorus-3dgs" / "stage1.toml", *teachers(*EMBEDDED),
            *settings(*TOY_STAGE1, "store_rgb=true"),
        )  # fmt: skip
    return RecipeRooms(manifests, root / "store")


def records(run: Path) -> list[dict[str, object]]:
    """Steps of a run's log."""
    lines = (run / "log.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == "step"]
