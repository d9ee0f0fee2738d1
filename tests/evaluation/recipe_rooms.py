"""Small rooms in the raw layouts of the data sets that recipes are for, prepared and cached: what recipes run on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from chorus_common.labels import MATTERPORT160, SCANNETPP100
from data_manifests.commands.prepare import prepare_command
from data_manifests.commands.synth import synth_command
from data_manifests.datasets.mesh import read_faces, read_mesh
from stage1_render_teachers.commands.run import run_command
from tests.data_manifests.matterport_houses import Region, table, write_mesh

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
    """ScanNet, ScanNet++, Matterport3D and S3DIS from their raw layouts."""
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
    _scannetpp(root / "raw" / "scannet" / "scans", root / "raw" / "scannetpp")
    call(prepare_command, "scannetpp", "--root", root / "raw" / "scannetpp", "--out", root / "scenes" / "scannetpp")
    manifests["scannetpp"] = root / "scenes" / "scannetpp" / "manifest.parquet"
    _matterport(root / "raw" / "scannet" / "scans", root / "raw" / "matterport3d")
    name, out = "matterport3d", root / "scenes" / "matterport3d"
    lists = [f'release.split_lists.{split}=["house{k}"]' for k, split in enumerate(("train", "val"))]
    lists.append("release.split_lists.test=[]")
    call(prepare_command, name, "--root", root / "raw" / name, "--out", out, *settings(*lists))
    manifests[name] = out / "manifest.parquet"
    return manifests


def _scannetpp(scans: Path, root: Path) -> None:
    """ScanNet++'s raw layout from scans in ScanNet's: the same mesh, segments and objects under its names."""
    found = sorted(scans.iterdir())[:2]
    classes = set()
    for scan in found:
        folder = root / "data" / scan.name / "scans"
        folder.mkdir(parents=True)
        stem = scan / f"{scan.name}_vh_clean_2"
        shutil.copy(f"{stem}.ply", folder / "mesh_aligned_0.05.ply")
        shutil.copy(f"{stem}.0.010000.segs.json", folder / "segments.json")
        shutil.copy(scan / f"{scan.name}.aggregation.json", folder / "segments_anno.json")
        objects = json.loads((folder / "segments_anno.json").read_text())
        classes |= {group["label"] for group in objects["segGroups"]}
    for split, scan in zip(("train", "val"), found):
        file = root / "splits" / f"nvs_sem_{split}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{scan.name}\n")
    table = root / "metadata" / "semantic_benchmark" / "map_benchmark.csv"
    table.parent.mkdir(parents=True)
    lines = [f"{name},1,{name if name in SCANNETPP100 else 'None'},None" for name in sorted(classes)]
    table.write_text("\n".join(["class,count,semantic_map_to,instance_map_to", *lines]) + "\n")


def _matterport(scans: Path, root: Path) -> None:
    """Matterport3D's raw layout from scans in ScanNet's, a house of one region each: a face is of its first vertex's
    segment.
    """
    found = sorted(scans.iterdir())[:2]
    objects = [json.loads((scan / f"{scan.name}.aggregation.json").read_text())["segGroups"] for scan in found]
    raw = tuple(sorted({group["label"] for groups in objects for group in groups}))
    for k, (scan, groups) in enumerate(zip(found, objects)):
        stem = f"{scan.name}_vh_clean_2"
        vertices, colors, _ = read_mesh(scan / f"{stem}.ply")
        faces = read_faces(scan / f"{stem}.ply", len(vertices)).corners
        segments = np.array(json.loads((scan / f"{stem}.0.010000.segs.json").read_text())["segIndices"])
        owned = tuple((group["objectId"], group["label"], tuple(group["segments"])) for group in groups)
        region = Region(vertices, colors, faces.astype(np.int32), segments[faces[:, 0]], owned, raw)
        write_mesh(root / "v1" / "scans" / f"house{k}" / "region_segmentations" / "region0.ply", region)
    (root / "metadata").mkdir()
    rows = tuple((name, "", name if name in MATTERPORT160 else "", "") for name in raw)
    (root / "metadata" / "category_mapping.tsv").write_text(table(rows))


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
