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
    run.
    """

    scene: str | None = None
    views: int = 3
    queries: tuple[str, ...] = ()
    seconds: float | None = None


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
            f"{run}: holds no results; run chorus-eval zero-shot or probe with --out {run}/NAME.json first"
        )
    results = summary(found, config.seconds)
    tables = [t for task in ("zero-shot", "probe") if task in found for t in _tables(task, found[task])]
    charts = _charts(found)
    views = _pictures(found, config) if config.views and "zero-shot" in found else []
    html = page("Chorus report", _subtitle(found), _cards(results), tables, views, charts, command)
    target = out / "report.html"
    write_text_atomically(target, html)
    for view in views:
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


def _subtitle(found: Mapping[str, Mapping[str, Any]]) -> str:
    parts = []
    for task, document in found.items():
        if task in ("zero-shot", "probe"):
            parts.append(f"{task}: {len(document['per_scene'])} scenes of split {document['inputs']['split']}")
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


def _tables(task: str, document: Mapping[str, Any]) -> list[Table]:
    title = {"zero-shot": "Zero-shot segmentation", "probe": "Linear probe"}[task]
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
    return [main, per_class, per_scene, published]


def _charts(found: Mapping[str, Mapping[str, Any]]) -> list[Chart]:
    charts = []
    log = _training_log(found)
    if log is not None and (curves := training_curves(read_log(log))) is not None:
        charts.append(Chart(f"Training ({log})", curves))
    for task, shown in (("zero-shot", ("student", "features", "lifted_teacher")), ("probe", ("trained", "random"))):
        if task not in found:
            continue
        rows = {k: r for k, r in found[task]["rows"].items() if k in shown}
        bars = {_ROW_NAMES[k]: {c: v["iou"] for c, v in r["per_class"].items()} for k, r in rows.items()}
        charts.append(Chart(f"{task}: IoU per class", class_bars(bars)))
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
