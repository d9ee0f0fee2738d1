"""Many rooms on disk: which rooms, where, written whole or not at all, by any number of processes."""

from __future__ import annotations

import functools
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from pydantic import Field

from chorus_common.manifest import Manifest, ManifestRow, path_digest
from chorus_common.runtime.atomic import fsync_directory, write_bytes_atomically, write_text_atomically
from chorus_common.runtime.config import Config, dump_config
from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.processes import each_as_done
from chorus_common.scene_io.npy_folder import count_npy_folder
from data_manifests.synthetic.categories import labels_tsv
from data_manifests.synthetic.model import build_model
from data_manifests.synthetic.options import LayoutName, RoomOptions, RoomType
from data_manifests.synthetic.room import generate_room
from data_manifests.synthetic.s3dis_layout import ROOM_NAMES, alignment_angle, alignment_file, write_s3dis
from data_manifests.synthetic.scannet_layout import write_scannet
from data_manifests.synthetic.write import write_gaussians

SPLITS = ("train", "val", "test")
#: First scene number of each split in the scannet layout, and the number after the last.
SCAN_NUMBERS = {"train": (0, 7000), "val": (7000, 9000), "test": (9000, 10000)}
#: Rooms of data sets have seeds below this; those above are left for training the embedded teachers.
RESERVED_SEEDS = 900_000_000
#: S3DIS tests on Area_5 and trains on the others.
TRAIN_AREAS, VAL_AREA = (1, 2, 3, 4, 6), 5
S3DIS_ROOT = "Stanford3dDataset_v1.2"
#: The settings a folder was made with; without this file a folder holds no data set of ours.
SETTINGS = "synth.json"
MANIFEST = "manifest.parquet"


class SynthConfig(Config):
    """What decides the bytes of every room. How many rooms there are does not: a data set can grow."""

    layout: LayoutName = "gaussians"
    seed: int = Field(default=0, ge=0, lt=2**32)
    room: RoomOptions = RoomOptions()
    mesh_step: float = Field(default=0.04, ge=0.01, le=0.2, description="edge length of scannet meshes in metres")
    defects: bool = Field(default=False, description="show the known defects of the s3dis release")


@dataclass(frozen=True)
class RoomJob:
    """One room to write: its place below the data set's root, and the seed and options that make it."""

    split: str
    scene_id: str
    folder: str
    seed: int
    options: RoomOptions


def plan_jobs(config: SynthConfig, counts: dict[str, int]) -> list[RoomJob]:
    """The rooms of every split, in order. Room i of a split is the same whatever the counts are.

    Room types take turns within each split, so that a handful of rooms already shows all classes.
    """
    for split, (first, end) in SCAN_NUMBERS.items():
        if config.layout == "scannet" and counts.get(split, 0) > end - first:
            raise ConfigError(f"{counts[split]} {split} rooms: scene numbers allow {end - first} in the scannet layout")
    if config.layout != "gaussians" and config.room.domain == "scan":
        raise ConfigError(f"domain scan makes the points of a scan; layout {config.layout} has points of its own")
    if config.layout == "s3dis" and counts.get("test", 0):
        raise ConfigError("the s3dis layout has no test split: Area_5 holds the val rooms; set test to 0")
    types = get_args(RoomType)
    jobs: list[RoomJob] = []
    numbers: dict[str, int] = {}
    for number, split in enumerate(SPLITS):
        order = np.random.Generator(np.random.PCG64([config.seed, number])).permutation(len(types))
        for i in range(counts.get(split, 0)):
            seed = int(np.random.SeedSequence([config.seed, number, i]).generate_state(1)[0]) % RESERVED_SEEDS
            room_type = config.room.room_type or types[order[i % len(types)]]
            options = config.room.model_copy(update={"room_type": room_type})
            if config.layout == "gaussians":
                scene_id = f"{split}_{i:04d}"
                folder = f"{split}/{scene_id}"
            elif config.layout == "scannet":
                scene_id = f"scene{SCAN_NUMBERS[split][0] + i:04d}_00"
                folder = f"{'scans_test' if split == 'test' else 'scans'}/{scene_id}"
            else:
                area = VAL_AREA if split != "train" else TRAIN_AREAS[i % len(TRAIN_AREAS)]
                kind = f"Area_{area}/{ROOM_NAMES[room_type]}"
                numbers[kind] = numbers.get(kind, 0) + 1
                scene_id = f"{kind}_{numbers[kind]}"
                folder = f"{S3DIS_ROOT}/{scene_id}"
            jobs.append(RoomJob(split, scene_id, folder, seed, options))
    return jobs


def write_job(root: Path, config: SynthConfig, job: RoomJob) -> str:
    """Make one room and publish its folder by rename; a folder that exists is complete and left alone. Returns the
    scene id.
    """
    target = root / job.folder
    if target.exists():
        return job.scene_id
    temporary = target.parent / f".tmp-{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        room = generate_room(job.seed, job.options)
        if config.layout == "gaussians":
            write_gaussians(room, temporary)
        elif config.layout == "scannet":
            write_scannet(room, temporary, job.scene_id, annotated=job.split != "test", step=config.mesh_step)
        else:
            name = job.scene_id.rpartition("/")[2]
            write_s3dis(room, temporary, name, points=job.options.gaussians, defects=config.defects)
        for folder in (temporary, *(p for p in temporary.rglob("*") if p.is_dir())):
            fsync_directory(folder)
        os.replace(temporary, target)
        fsync_directory(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return job.scene_id


def write_dataset(root: Path, config: SynthConfig, counts: dict[str, int], workers: int = 1) -> Iterator[str]:
    """Write all rooms that are not there yet, yielding scene ids as they are done, then what belongs to the whole data
    set.

    Raises ConfigError if `root` holds rooms made with other settings.
    """
    check_settings(root, config)
    jobs = plan_jobs(config, counts)
    for _, scene_id in each_as_done(functools.partial(write_job, root, config), jobs, workers):
        yield scene_id
    _finish(root, config, jobs)


def check_settings(root: Path, config: SynthConfig) -> None:
    """Write the settings beside a new data set, or compare them with those of the one that is there."""
    file, text = root / SETTINGS, dump_config(config)
    if not file.exists():
        if root.is_dir() and any(not p.name.startswith(".tmp-") for p in root.iterdir()):
            raise ConfigError(f"{root}: is not empty and holds no {SETTINGS}; choose an empty folder")
        write_text_atomically(file, text)
    elif file.read_text(encoding="utf-8") != text:
        try:
            there, here = json.loads(file.read_text(encoding="utf-8")), json.loads(text)
        except ValueError:
            raise ConfigError(f"{file}: is damaged; choose another folder") from None
        differ = ", ".join(sorted(k for k in here if there.get(k) != here[k]))
        raise ConfigError(f"{root}: holds rooms made with another {differ}; choose another folder or the same settings")


def _finish(root: Path, config: SynthConfig, jobs: list[RoomJob]) -> None:
    """Files about the whole data set; they follow from the jobs alone."""
    if config.layout == "gaussians":
        write_manifest(root, config, jobs)
    elif config.layout == "scannet":
        write_bytes_atomically(root / "scannetv2-labels.combined.tsv", labels_tsv())
        for split in SPLITS:
            names = [job.scene_id for job in jobs if job.split == split]
            write_text_atomically(root / f"scannetv2_{split}.txt", "".join(f"{name}\n" for name in names))
    else:
        angles: dict[int, dict[str, int]] = {}
        for job in jobs:
            area, _, name = job.scene_id.partition("/")
            angle = alignment_angle(build_model(job.seed, job.options))
            angles.setdefault(int(area.removeprefix("Area_")), {})[name] = angle
        for number, rooms in sorted(angles.items()):
            file = root / S3DIS_ROOT / f"Area_{number}" / f"Area_{number}_alignmentAngle.txt"
            write_text_atomically(file, alignment_file(number, rooms))


def write_manifest(root: Path, config: SynthConfig, jobs: list[RoomJob]) -> None:
    """manifest.parquet: a row per room; the root is the folder itself, so that both can move together."""
    root = root.resolve()
    domain = config.room.domain
    rows = []
    for job in jobs:
        folder = root / job.folder
        rows.append(
            ManifestRow(
                dataset="rooms" if domain == "clean" else f"rooms-{domain}",
                scene_id=job.scene_id,
                split=job.split,
                format="npy-folder",
                scene_path=folder,
                cameras_path=folder / "transforms.json",
                label_space="scannet20",
                n_gaussians=count_npy_folder(folder),
                sha256=path_digest(folder),
            )
        )
    Manifest(root, tuple(rows)).write(root / MANIFEST)
