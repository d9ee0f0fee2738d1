"""Build a report: collect the results of a run, draw, write report.html, the pictures and results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chorus_common.atomic import write_bytes_atomically, write_text_atomically
from chorus_common.cache import SceneCache
from chorus_common.config import Config
from chorus_common.errors import ConfigError
from chorus_common.standardise import TeacherBasis
from chorus_common.text import load_text_encoder
from evaluation.report.charts import class_bars, confusion_picture, read_log, training_curves
from evaluation.report.export import latex_table, markdown_table
from evaluation.report.gallery import failure_gallery
from evaluation.report.page import Card, Chart, Table, page
from evaluation.report.pictures import Subject, ViewPictures, view_pictures
from evaluation.results import find_results, text_table
from stage2_distill.student import load_student

_ROW_NAMES = {
    "student": "student",
    "features": "feature files",
    "lifted_teacher": "lifted teacher",
    "lifted_teacher_seen_only": "lifted teacher, unseen = wrong",
    "trained": "trained encoder",
    "random": "random encoder",
}
_MEANS = (
    ("miou", "mIoU"),
    ("f_miou", "f-mIoU"),
    ("macc", "mAcc"),
    ("f_macc", "f-mAcc"),
    ("overall_accuracy", "accuracy"),
)


class ReportConfig(Config):
    """What to show. scene: "<data set>/<id>" or id; queries: texts for heat maps; seconds: duration of the whole
    run; gallery: worst scenes to show of a fine-tuning result.
    """

    scene: str | None = None
    views: int = 3
    queries: tuple[str, ...] = ()
    seconds: float | None = None
    gallery: int = 3


@dataclass(frozen=True)
class Report:
    """What was built: the page, the numbers of results.json, and the tables as plain text by title."""

    page: Path
    results: dict[str, Any]
    tables: dict[str, str]


def build_report(run: Path, out: Path, config: ReportConfig, command: str) -> Report:
    """Build the report of the result files in folder `run`.

    results.json is written into `out` and into `run`. Raises ConfigError, one line, where `run` holds no results.
    """
    found = find_results(run)
    if not found:
        raise ConfigError(
            f"{run}: holds no results; run chorus-eval zero-shot, probe or finetune with --out {run}/NAME.json first"
        )
    results = summary(found, config.seconds)
    tables = [table for name, document in _segmentations(found).items() for table in _tables(name, document)]
    views = _pictures(found, config) if config.views and "zero-shot" in found else []
    charts = _charts(found)
    gallery = _gallery(found, config.gallery)
    html = page("Chorus report", _subtitle(found), _cards(results), tables, views, charts, command, gallery)
    target = out / "report.html"
    write_text_atomically(target, html)
    write_text_atomically(out / "report.md", _markdown(tables, command))
    write_text_atomically(out / "tables.tex", "\n".join(latex_table(t.header, t.rows, t.title) for t in tables))
    for view in (*views, *gallery):
        for row in view.rows:
            for panel in row:
                write_bytes_atomically(out / f"{panel.key}.png", panel.png)
    for i, chart in enumerate(charts):
        write_bytes_atomically(out / f"chart{i}.png", chart.png)
    text = json.dumps(results, indent=1) + "\n"
    write_text_atomically(out / "results.json", text)
    write_text_atomically(run / "results.json", text)
    return Report(target, results, {t.title: text_table(t.header, t.rows) for t in tables})


def summary(found: Mapping[str, Mapping[str, Any]], seconds: float | None) -> dict[str, Any]:
    """The few numbers that others read: {"seconds", "zero_shot": {row: {"miou", "f_miou"}}, "linear_probe": {row:
    {"miou"}}}.
    """
    result: dict[str, Any] = {"seconds": seconds}
    if "zero-shot" in found:
        rows = found["zero-shot"]["rows"]
        result["zero_shot"] = {name: {"miou": row["miou"], "f_miou": row["f_miou"]} for name, row in rows.items()}
    if "probe" in found:
        rows = found["probe"]["rows"]
        result["linear_probe"] = {name: {"miou": row["miou"], "f_miou": row["f_miou"]} for name, row in rows.items()}
    return result


def _segmentations(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The results with rows of semantic scores, in the order in which a report shows them."""
    names = [n for n in ("zero-shot", "probe") if n in found]
    return {name: found[name] for name in [*names, *sorted(n for n in found if n.startswith("finetune "))]}


def _subtitle(found: Mapping[str, Mapping[str, Any]]) -> str:
    parts = []
    for name, document in _segmentations(found).items():
        inputs = document["inputs"]
        split = inputs["split"] if "split" in inputs else ", ".join(inputs["splits"])
        parts.append(f"{name}: {len(document['per_scene'])} scenes of split {split}")
    return "; ".join(parts)


def _cards(results: Mapping[str, Any]) -> list[Card]:
    cards = []
    zero_shot, probe = results.get("zero_shot", {}), results.get("linear_probe", {})
    if "student" in zero_shot:
        teacher = zero_shot.get("lifted_teacher", {})
        cards.append(
            Card(
                "Zero-shot mIoU, student",
                _percent(zero_shot["student"]["miou"]),
                f"lifted teacher {_percent(teacher.get('miou'))}",
            )
        )
        cards.append(
            Card(
                "Zero-shot f-mIoU, student",
                _percent(zero_shot["student"]["f_miou"]),
                f"lifted teacher {_percent(teacher.get('f_miou'))}",
            )
        )
    if "trained" in probe:
        cards.append(
            Card(
                "Linear probe mIoU",
                _percent(probe["trained"]["miou"]),
                f"random encoder {_percent(probe['random']['miou'])}",
            )
        )
    if results["seconds"] is not None:
        cards.append(Card("Whole run", f"{results['seconds'] / 60:.1f} min", "rooms to report"))
    return cards


def _title(name: str) -> str:
    """A result's name as a heading."""
    known = {"zero-shot": "Zero-shot segmentation", "probe": "Linear probe"}
    if name in known:
        return known[name]
    _, mode, task = name.split(" ")
    return f"Fine-tuning, {task}: {'everything' if mode == 'full' else f'{mode} probe'}"


def _tables(task: str, document: Mapping[str, Any]) -> list[Table]:
    title = _title(task)
    command, rows = document["command"], document["rows"]
    label = {key: _ROW_NAMES.get(key, key) for key in rows}
    note = (
        "Means over the classes in the ground truth; a Gaussian without a prediction is wrong. "
        "f-: without wall, floor, ceiling."
    )
    if document["excluded"]:
        left_out = [f"{name} ({reason})" for name, reason in document["excluded"].items()]
        note += f" Left out: {', '.join(left_out[:5])}{f' and {len(left_out) - 5} more' if len(left_out) > 5 else ''}."
    main = Table(
        title, command, ("", *(name for _, name in _MEANS), "classes"),
        tuple((label[k], *(_percent(r[key]) for key, _ in _MEANS), str(r["n_classes"])) for k, r in rows.items()), note,
    )  # fmt: skip
    published = Table(
        f"{title}: the same predictions by published definitions", command,
        ("definition", *(f"{label[k]} {m}" for k in rows for m in ("mIoU", "f-mIoU"))),
        tuple(
            (name, *(_percent(rows[k]["published_definitions"][name][m]) for k in rows for m in ("miou", "f_miou")))
            for name in next(iter(rows.values()))["published_definitions"]
        ),
        "Definitions: docs/evaluation.md.",
    )  # fmt: skip
    classes = [c for c, v in next(iter(rows.values()))["per_class"].items() if v["iou"] is not None]
    per_class = Table(
        f"{title}: IoU per class", command, ("", *classes),
        tuple((label[k], *(_percent(r["per_class"][c]["iou"]) for c in classes)) for k, r in rows.items()),
    )  # fmt: skip
    scenes = document["per_scene"]
    per_scene = Table(
        f"{title}: per scene", command, ("scene", *(f"{label[k]} mIoU" for k in rows)),
        tuple((scene, *(_percent(values[k]["miou"]) for k in rows)) for scene, values in scenes.items()),
    )  # fmt: skip
    return [main, *_group_tables(title, document, label), *_instance_tables(title, document, label), per_class,
            per_scene, published]  # fmt: skip


def _group_tables(title: str, document: Mapping[str, Any], label: Mapping[str, str]) -> list[Table]:
    """Head, common and tail, where the label space has them."""
    rows = document["rows"]
    groups = list(next(iter(rows.values()))["groups"])
    if not groups:
        return []
    header = ("", *(f"{group} {mean}" for group in groups for mean in ("mIoU", "mAcc")))
    lines = tuple(
        (label[k], *(_percent(r["groups"][group][mean]) for group in groups for mean in ("miou", "macc")))
        for k, r in rows.items()
    )
    return [Table(f"{title}: groups of classes", document["command"], header, lines)]


def _instance_tables(title: str, document: Mapping[str, Any], label: Mapping[str, str]) -> list[Table]:
    """AP in the mean and per class, where a result has instances."""
    rows = {k: r["instances"] for k, r in document["rows"].items() if "instances" in r}
    if not rows:
        return []
    command, keys = document["command"], ("ap", "ap50", "ap25")
    first = next(iter(rows.values()))
    columns = [("", first, keys), *((f"{g} ", first["groups"][g], keys) for g in first.get("groups", {}))]
    header = ("", *(f"{prefix}{m}" for prefix, _, _ in columns for m in ("AP", "AP50", "AP25")))
    main = []
    for k, r in rows.items():
        parts = [r, *(r["groups"][g] for g in first.get("groups", {}))]
        main.append((label[k], *(_percent(part[key]) for part in parts for key in keys)))
    classes = [c for c, v in first["per_class"].items() if v["n_gt"]]
    per_class = tuple((label[k], *(_percent(r["per_class"][c]["ap50"]) for c in classes)) for k, r in rows.items())
    return [
        Table(f"{title}: instances", command, header, tuple(main), "ScanNet's official AP."),
        Table(f"{title}: AP50 per class", command, ("", *classes), per_class),
    ]


def _markdown(tables: Sequence[Table], command: str) -> str:
    """All tables of the report as Markdown."""
    parts = ["# Chorus report", "", f"Made by `{command}`.", ""]
    for t in tables:
        parts += [f"## {t.title}", "", markdown_table(t.header, t.rows), ""]
        parts += [t.note, ""] if t.note else []
        parts += [f"`{t.command}`", ""]
    return "\n".join(parts)


def _gallery(found: Mapping[str, Mapping[str, Any]], n: int) -> list[ViewPictures]:
    """The worst scenes of the fine-tuning result with the best mIoU; without one there is no gallery."""
    results = [d for name, d in found.items() if name.startswith("finetune ")]
    if not results or n == 0:
        return []
    return failure_gallery(max(results, key=lambda d: d["rows"]["trained"]["miou"]), n)


def _charts(found: Mapping[str, Mapping[str, Any]]) -> list[Chart]:
    charts = []
    log = _training_log(found)
    if log is not None and (curves := training_curves(read_log(log))) is not None:
        charts.append(Chart(f"Training ({log})", curves))
    shown = ("student", "features", "lifted_teacher", "trained", "random")
    for task in _segmentations(found):
        rows = {k: r for k, r in found[task]["rows"].items() if k in shown}
        bars = {_ROW_NAMES[k]: {c: v["iou"] for c, v in r["per_class"].items()} for k, r in rows.items()}
        charts.append(Chart(f"{task}: IoU per class", class_bars(bars)))
        groups = {_ROW_NAMES[k]: {g: v["miou"] for g, v in r["groups"].items()} for k, r in rows.items()}
        if any(groups.values()):
            charts.append(Chart(f"{task}: IoU per group of classes", class_bars(groups)))
        first, row = next(iter(rows.items()))
        confusion = row["confusion"]
        name = f"{task}, {_ROW_NAMES[first]}"
        charts.append(
            Chart(
                f"{name}: share of each true class, in percent",
                confusion_picture(name, confusion["class_names"], np.array(confusion["counts"])),
            )
        )
    return charts


def _training_log(found: Mapping[str, Mapping[str, Any]]) -> Path | None:
    """log.jsonl of the run that trained the encoder; it lies in its folder or, for the best checkpoint, one above."""
    for document in found.values():
        encoder = document["inputs"].get("encoder")
        for folder in (Path(encoder), Path(encoder).parent) if encoder else ():
            if (folder / "log.jsonl").is_file():
                return folder / "log.jsonl"
    return None


def _pictures(found: Mapping[str, Mapping[str, Any]], config: ReportConfig) -> list[ViewPictures]:
    document = found["zero-shot"]
    inputs = document["inputs"]
    name = _scene_name(document["per_scene"], config.scene)
    stores = [Path(s) for s in inputs["stores"]]
    store = next((s for s in stores if (s / f"{name}.zarr").is_dir()), None)
    if store is None:
        raise ConfigError(
            f"{stores[0] / name}.zarr: not there any more, or named relative to another folder; "
            "run the report where the evaluation ran, or with --views 0"
        )
    teacher = inputs["teacher"]
    subject = Subject(
        cache=SceneCache.open(store / f"{name}.zarr"),
        teacher=teacher,
        basis=TeacherBasis.load(store / "bases" / f"{teacher}.safetensors"),
        text_encoder=load_text_encoder(inputs["text_encoder"]),
        student=load_student(inputs["encoder"]) if inputs["encoder"] else None,
        turns=inputs.get("turns", 1),
        prompts=inputs["prompts"],
        synonyms=inputs["synonyms"],
    )
    return view_pictures(subject, config.views, config.queries)


def _scene_name(scenes: Sequence[str] | Mapping[str, Any], wanted: str | None) -> str:
    names = list(scenes)
    if wanted is None:
        return names[0]
    for name in names:
        if wanted in (name, name.split("/", 1)[-1]):
            return name
    raise ConfigError(
        f"--scene {wanted}: not among the evaluated scenes ({', '.join(names[:5])}{' ...' if len(names) > 5 else ''})"
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
