"""chorus-eval zero-shot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chorus_common.errors import ConfigError
from evaluation.commands.options import (
    FILE,
    device_option,
    finish,
    manifest_option,
    optional_text,
    out_option,
    store_option,
)
from evaluation.results import command_line, result_document, write_result


@click.command("zero-shot")
@store_option
@manifest_option
@click.option("--split", default="val", help="Split of the manifest to evaluate.")
@click.option("--encoder", type=FILE, help="Student folder of chorus-stage2 train: adds the row 'student'.")
@click.option(
    "--features", type=FILE, help="Folder of <scene id>.npy [N, C] in the teacher's space: adds the row 'features'."
)
@click.option("--teacher", help="Text-aligned teacher to ask.  [default: the first that has a text side]")
@click.option(
    "--lifted/--no-lifted", default=True, help="Add the rows of the teacher's own features, lifted from the cache."
)
@click.option(
    "--prompts", default="rooms", help="Prompt templates: plain, scenesplat or rooms (evaluation/prompts.py)."
)
@click.option("--synonyms", is_flag=True, help="Average over other names of each class too.")
@click.option("--on", "target", type=click.Choice(["gaussians", "points"]), default="gaussians", help="What is scored.")
@click.option("-k", "k", type=click.IntRange(min=1), default=25, help="Gaussians that vote for a point (--on points).")
@out_option
@device_option
def zero_shot_command(
    stores: tuple[Path, ...],
    manifest: Path | None,
    split: str,
    encoder: Path | None,
    features: Path | None,
    teacher: str | None,
    lifted: bool,
    prompts: str,
    synonyms: bool,
    target: Any,
    k: int,
    out: Path,
    device: str,
) -> int:
    """Segment scenes by class names alone: student, lifted teacher, or any feature files."""
    from chorus_common.standardise import TeacherBasis
    from evaluation.features import FeatureFiles, LiftedTeacher, StudentFeatures, check_pair, text_aligned_teacher
    from evaluation.prompts import class_embeddings
    from evaluation.scenes import labelled_scenes, select_scenes
    from evaluation.tasks.zero_shot import Contender, ZeroShotConfig, zero_shot
    from stage2_distill.student import load_student

    config = ZeroShotConfig(prompts=prompts, synonyms=synonyms, target=target, k=k)
    selection = select_scenes(stores, manifest, split)
    class_names, label_space = labelled_scenes(selection)
    first = selection.scenes[0].open()
    cached = {name: a.spec for name, a in first.attributes.dense_teachers.items()}
    contenders: dict[str, Contender] = {}
    if encoder is not None:
        student = load_student(encoder, device)
        name, text_encoder = text_aligned_teacher({n: t.spec for n, t in student.config.teachers.items()}, teacher)
        contenders["student"] = Contender(StudentFeatures(student, name))
        check_pair(name, student.config.teachers[name].fingerprint, text_encoder)
        if lifted and cached.get(name) != student.config.teachers[name].spec:
            raise ConfigError(
                f"{stores[0]}: teacher '{name}' is {cached.get(name, 'absent')} here, the student's is "
                f"{student.config.teachers[name].spec}; use --no-lifted"
            )
    else:
        name, text_encoder = text_aligned_teacher(cached, teacher)
    if features is not None:
        contenders["features"] = Contender(FeatureFiles(features, text_encoder.channels))
    if lifted:
        check_pair(name, first.attributes.dense_teachers[name].fingerprint, text_encoder)
        source = LiftedTeacher(name, TeacherBasis.load(selection.scenes[0].store / "bases" / f"{name}.safetensors"))
        contenders["lifted_teacher"] = Contender(source, fill=True)
        contenders["lifted_teacher_seen_only"] = Contender(source)
    if not contenders:
        raise ConfigError("nothing to evaluate; give --encoder or --features, or leave out --no-lifted")
    text = class_embeddings(text_encoder, class_names, templates=prompts, synonyms=synonyms)
    body = zero_shot(selection, class_names, text, contenders, config)
    inputs = {
        "stores": [str(s) for s in stores],
        "manifest": optional_text(manifest),
        "split": split,
        "encoder": optional_text(encoder),
        "features": optional_text(features),
        "teacher": name,
        "text_encoder": text_encoder.spec,
        "label_space": label_space,
        **config.model_dump(),
    }
    write_result(out, result_document("zero-shot", command_line(), inputs, body))
    return finish(body["rows"], selection.excluded, selection.failed, out)
