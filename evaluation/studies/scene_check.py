"""python -m evaluation.studies.scene_check: are turned, scaled and soiled rooms brought in order, and what is it worth?

Without a student: how often the estimate of up is right and how far the estimate of scale is off, on synthetic rooms of
reserved seeds. With one: its zero-shot mIoU over the rooms of a manifest's split, each variant with `auto` and `off`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F

from chorus_common.cameras import CameraSet
from chorus_common.labels import LABEL_SPACES
from chorus_common.manifest import Manifest
from chorus_common.runtime.errors import EXIT_DONE, ConfigError, run_cli
from chorus_common.runtime.options import PATH
from chorus_common.scene import COLUMNS, GaussianScene
from chorus_common.scene_check import Alignment, AlignmentSettings, align_scene
from chorus_common.scene_io import read_scene
from chorus_common.text import load_text_encoder
from data_manifests.synthetic import RoomOptions, generate_room
from evaluation.results import text_table
from stage2_distill.student import Student, load_student
from stage2_distill.tta import encode_tta

#: Rooms from this seed on belong to this study.
FIRST_SEED = 5_000_000
OFF = AlignmentSettings(up="off", scale="off", outliers="off")
Variant = Callable[[GaussianScene], GaussianScene]

TURNS = {
    "as it is": Alignment(),
    "y down": Alignment(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])),
    "y up": Alignment(np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])),
    "upside down": Alignment(np.diag([1.0, -1, -1])),
    "units of 4.24 m": Alignment(scale=0.2356),
    "millimetres": Alignment(scale=1000.0),
    "feet": Alignment(scale=3.28084),
}


def soiled(metres: float) -> Variant:
    """One nearly clear Gaussian (opacity 0.02) so far below the floor, as the last row."""

    def add(scene: GaussianScene) -> GaussianScene:
        columns: dict[str, Any] = {
            key: np.concatenate([value, value[:1]])
            for key in COLUMNS
            if key not in ("source_ids", "outliers") and (value := getattr(scene, key)) is not None
        }
        columns["means"][-1] = [*scene.means[:, :2].mean(axis=0), scene.means[:, 2].min() - metres]
        columns["opacities"][-1] = 0.02
        for key in ("labels", "instances", "parts"):
            if key in columns:
                columns[key][-1] = -1
        return GaussianScene(**columns, label_space=scene.label_space)

    return add


def estimates(rooms: int) -> list[tuple[str, ...]]:
    """Rows (variant, with cameras, up right, error of the scale in the middle and at the 90th percentile)."""
    made = [generate_room(FIRST_SEED + i, RoomOptions(gaussians=8000, views=12)) for i in range(rooms)]
    rows: list[tuple[str, ...]] = []
    for name, turn in TURNS.items():
        for with_cameras in (False, True):
            right, errors = [], []
            for room in made:
                cameras: CameraSet | None = turn.cameras(room.cameras) if with_cameras else None
                found = align_scene(turn.scene(room.scene), cameras=cameras).alignment
                right.append((found.rotation @ turn.rotation)[2, 2] > 0.999)
                errors.append(abs(float(np.log(found.scale * turn.scale))))
            middle, high = np.percentile(errors, [50, 90])
            rows.append(
                (name, "yes" if with_cameras else "no", f"{np.mean(right):.1%}", f"{middle:.1%}", f"{high:.1%}")
            )
    return rows


def zero_shot(student: Student, teacher: str, scenes: list[GaussianScene]) -> list[tuple[str, ...]]:
    """Rows (variant, mIoU with auto, mIoU with off) in per cent, over all `scenes` together."""
    names = LABEL_SPACES[scenes[0].label_space]
    text = torch.from_numpy(load_text_encoder(student.config.teachers[teacher].spec).encode(list(names)))

    def miou(variant: Variant, settings: AlignmentSettings) -> float:
        confusion = np.zeros((len(names), len(names)))
        for scene in scenes:
            aligned = align_scene(variant(scene), settings)
            features = encode_tta(student.encoder, aligned.scene, 1).in_teacher_space(student, teacher)
            predicted = aligned.all_rows((F.normalize(features, dim=-1) @ text.T).argmax(dim=1).numpy())[: len(scene)]
            assert scene.labels is not None
            known = scene.labels >= 0
            np.add.at(confusion, (scene.labels[known], predicted[known]), 1)
        union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
        present = confusion.sum(1) > 0
        return 100 * float((confusion.diagonal() / np.maximum(union, 1))[present].mean())

    variants: Mapping[str, Variant] = {name: turn.scene for name, turn in TURNS.items()} | {
        f"one clear Gaussian {metres} m below the floor": soiled(metres) for metres in (0.15, 1.0, 10.0)
    }
    rows: list[tuple[str, ...]] = []
    for name, variant in variants.items():
        rows.append((name, f"{miou(variant, AlignmentSettings()):.1f}", f"{miou(variant, OFF):.1f}"))
        click.echo("  ".join(rows[-1]), err=True)
    return rows


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--rooms", type=click.IntRange(min=1), default=60, help="Synthetic rooms for the estimates.")
@click.option("--student", type=PATH, help="Student whose zero-shot mIoU is compared, with --manifest.")
@click.option("--manifest", type=PATH, help="Manifest of labelled rooms.")
@click.option("--split", default="val", help="Split of the manifest.")
@click.option("--teacher", default="embedded-text", help="Text-aligned teacher of the student.")
def study(rooms: int, student: Path | None, manifest: Path | None, split: str, teacher: str) -> int:
    """Turn, scale and soil rooms, and see whether they come back."""
    if (student is None) != (manifest is None):
        raise ConfigError("give --student and --manifest together")
    if student is None or manifest is None:
        click.echo(text_table(("variant", "cameras", "up right", "scale off", "90 %"), estimates(rooms)))
        return EXIT_DONE
    scenes = [read_scene(row.scene_path, label_space=row.label_space) for row in Manifest.read(manifest).select(split)]
    model = load_student(student, torch.device("cpu"))
    click.echo(text_table(("variant", "auto", "off"), zero_shot(model, teacher, scenes)))
    return EXIT_DONE


if __name__ == "__main__":
    run_cli(study)
