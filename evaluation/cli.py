"""chorus-eval: how good are the features? One command per task; each writes a JSON result that carries its own
command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chorus_common.errors import EXIT_DONE, EXIT_SOME_FAILED, ConfigError, run_cli
from evaluation.results import RecordingGroup, command_line, result_document, text_table, write_result

FILE = click.Path(path_type=Path)


@click.group(
    "chorus-eval", cls=RecordingGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
def cli() -> None:
    """Evaluation: zero-shot segmentation, linear probing, report."""


store_option = click.option(
    "--store", "stores", type=FILE, multiple=True, required=True, help="Cache root of stage 1; repeatable."
)
manifest_option = click.option(
    "--manifest", type=FILE, help="Manifest that names the scenes of each split.  [default: all of the store]"
)
out_option = click.option("--out", type=FILE, required=True, help="Result file (JSON).")
device_option = click.option("--device", default="cpu", help="Torch device of the encoder.")


@cli.command("zero-shot")
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
        "manifest": _text(manifest),
        "split": split,
        "encoder": _text(encoder),
        "features": _text(features),
        "teacher": name,
        "text_encoder": text_encoder.spec,
        "label_space": label_space,
        **config.model_dump(),
    }
    write_result(out, result_document("zero-shot", command_line(), inputs, body))
    return _finish(body["rows"], selection.excluded, selection.failed, out)


@cli.command("probe")
@store_option
@manifest_option
@click.option("--train-split", default="train", help="Split to fit the linear layer on.")
@click.option("--split", default="val", help="Split to score.")
@click.option("--encoder", type=FILE, required=True, help="Student folder or published checkpoint.")
@click.option(
    "--points-per-scene",
    type=click.IntRange(min=1),
    default=4096,
    help="Labelled Gaussians drawn from a training scene.",
)
@click.option(
    "--balance", type=click.Choice(["plain", "balanced"]), default="plain", help="Weight of the classes in the loss."
)
@click.option("--l2", type=click.FloatRange(min=0), default=1e-4, help="Weight decay of the linear layer.")
@click.option("--seed", type=int, default=0, help="Of the draw and of the random encoder.")
@out_option
@device_option
def probe_command(
    stores: tuple[Path, ...],
    manifest: Path | None,
    train_split: str,
    split: str,
    encoder: Path,
    points_per_scene: int,
    balance: Any,
    l2: float,
    seed: int,
    out: Path,
    device: str,
) -> int:
    """Fit one linear layer on frozen features; the random encoder is the yardstick."""
    if manifest is None:
        raise ConfigError(
            "probe needs --manifest: without splits it would be scored on the scenes that it was fitted on"
        )
    if train_split == split:
        raise ConfigError(
            f"--train-split and --split are both '{split}'; a probe is scored on scenes that it was not fitted on"
        )
    from evaluation.scenes import labelled_scenes, select_scenes
    from evaluation.tasks.probe import ProbeConfig, probe
    from stage2_distill.encoder import load_encoder

    config = ProbeConfig(points_per_scene=points_per_scene, balance=balance, l2=l2, seed=seed)
    train, val = select_scenes(stores, manifest, train_split), select_scenes(stores, manifest, split)
    class_names, label_space = labelled_scenes(val)
    _, train_space = labelled_scenes(train)
    if train_space != label_space:
        raise ConfigError(
            f"{manifest}: split '{train_split}' has label space '{train_space}', split '{split}' has '{label_space}'"
        )
    body = probe(train, val, class_names, load_encoder(encoder).to(device), config)
    inputs = {
        "stores": [str(s) for s in stores],
        "manifest": str(manifest),
        "train_split": train_split,
        "split": split,
        "encoder": str(encoder),
        "label_space": label_space,
        **config.model_dump(),
    }
    write_result(out, result_document("probe", command_line(), inputs, body))
    return _finish(body["rows"], body["excluded"], train.failed or val.failed, out)


@cli.command("report")
@click.option(
    "--run",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Folder with result files.",
)
@click.option("--out", type=FILE, required=True, help="Folder of the report: report.html, pictures, results.json.")
@click.option("--scene", help="Scene of the pictures.  [default: the first that was evaluated]")
@click.option("--views", type=click.IntRange(min=0), default=3, help="Views to show.")
@click.option(
    "--query", "queries", multiple=True, help="Text to draw a heat map for; repeatable.  [default: classes in view]"
)
@click.option("--seconds", type=float, help="How long the whole run took, for results.json.")
@click.option("--json", "as_json", is_flag=True, help="Print results.json instead of the tables.")
def report_command(
    run: Path, out: Path, scene: str | None, views: int, queries: tuple[str, ...], seconds: float | None, as_json: bool
) -> int:
    """One self-contained page: tables with their commands, pictures, curves."""
    from evaluation.report.build import ReportConfig, build_report

    built = build_report(
        run, out, ReportConfig(scene=scene, views=views, queries=queries, seconds=seconds), command_line()
    )
    if as_json:
        import json

        click.echo(json.dumps(built.results, indent=1))
    else:
        for title, table in built.tables.items():
            click.echo(f"{title}\n{table}\n")
        click.echo(f"report: {built.page}")
    return EXIT_DONE


def _finish(rows: dict[str, Any], excluded: dict[str, str], failed: bool, out: Path) -> int:
    """Print the table of a result; exit code 1 where scenes are missing that should have been there."""
    keys = ("miou", "f_miou", "macc", "f_macc", "overall_accuracy")
    header = ("", "mIoU", "f-mIoU", "mAcc", "f-mAcc", "accuracy")
    click.echo(text_table(header, [(name, *(row[key] for key in keys)) for name, row in rows.items()]))
    for name, reason in excluded.items():
        click.echo(f"left out: {name}: {reason}", err=True)
    click.echo(f"written: {out}")
    return EXIT_SOME_FAILED if failed else EXIT_DONE


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def main() -> None:
    """Entry point of the program."""
    run_cli(cli)
