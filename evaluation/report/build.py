"""Build a report: collect the results of a run, draw, write report.html, the pictures and results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chorus_common.cache import SceneCache, is_published
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.runtime.atomic import write_bytes_atomically, write_text_atomically
from chorus_common.runtime.config import Config
from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.store_path import parse_store_path
from chorus_common.text import load_text_encoder
from evaluation.report.charts import class_bars, confusion_picture, read_log, training_curves
from evaluation.report.export import latex_table, markdown_table
from evaluation.report.gallery import failure_gallery
from evaluation.report.page import Card, Chart, Table, page
from evaluation.report.pictures import Subject, ViewPictures, view_pictures
from evaluation.report.tables import ROW_NAMES, SEGMENTATIONS, TASKS, Document, percent, tables_of
from evaluation.results import find_results, metrics_of, text_table
from stage2_distill.student import load_student


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
    """What was built: the page, the numbers of results.json, the tables as plain text by title, and what could not be
    shown, in a line each.
    """

    page: Path
    results: dict[str, Any]
    tables: dict[str, str]
    notes: tuple[str, ...]


def build_report(run: Path, out: Path, config: ReportConfig, command: str) -> Report:
    """Build the report of the result files in folder `run`.

    results.json is written into `out` and into `run`. Raises ConfigError, one line, where `run` is not there or holds
    no results.
    """
    if not run.is_dir():
        raise ConfigError(f"{run}: no such folder; --run is where result files lie")
    found, notes = _shown(find_results(run))
    if not found:
        raise ConfigError(
            f"{run}: holds no results; run chorus-eval {', '.join(TASKS)} with --out {run}/NAME.json first"
        )
    results = summary(found, config.seconds)
    tables = [table for file, document in found.items() for table in tables_of(file, document)]
    views, unseen = _pictures(found, config)
    notes += unseen
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
    return Report(target, results, {t.title: text_table(t.header, t.rows) for t in tables}, tuple(notes))


def _shown(results: Mapping[str, Document]) -> tuple[dict[str, Document], list[str]]:
    """Results with figures by file name, in the order of `TASKS`, and a line about each that has none."""
    known = [(file, d) for task in TASKS for file, d in results.items() if d["task"] == task]
    notes = [f"{file}: scored no scene, so it is not shown" for file, d in known if not d["rows"]]
    return {file: d for file, d in known if d["rows"]}, notes


def summary(found: Mapping[str, Document], seconds: float | None) -> dict[str, Any]:
    """The few numbers that others read: {"seconds", "zero_shot": {row: {"miou", "f_miou"}}, "linear_probe": {row:
    {"miou", "f_miou"}}, "results": {file: {"task", "rows": {row: all its means}}}}; of several results of a task the
    first by file name is its short form.
    """
    result: dict[str, Any] = {"seconds": seconds}
    for task, key in (("zero-shot", "zero_shot"), ("probe", "linear_probe")):
        document = next((d for d in found.values() if d["task"] == task), None)
        if document is not None:
            rows = document["rows"].items()
            result[key] = {name: {"miou": row["miou"], "f_miou": row["f_miou"]} for name, row in rows}
    result["results"] = {
        file: {"task": d["task"], "rows": {name: metrics_of(row) for name, row in d["rows"].items()}}
        for file, d in found.items()
    }
    return result


def _subtitle(found: Mapping[str, Document]) -> str:
    parts = []
    for file, document in found.items():
        inputs = document["inputs"]
        split = inputs["split"] if "split" in inputs else ", ".join(inputs["splits"])
        parts.append(f"{file}: {len(document['per_scene'])} scenes of split {split}")
    return "; ".join(parts)


def _cards(results: Mapping[str, Any]) -> list[Card]:
    cards = []
    zero_shot, probe = results.get("zero_shot", {}), results.get("linear_probe", {})
    if "student" in zero_shot:
        teacher = zero_shot.get("lifted_teacher", {})
        cards.append(
            Card(
                "Zero-shot mIoU, student",
                percent(zero_shot["student"]["miou"]),
                f"lifted teacher {percent(teacher.get('miou'))}",
            )
        )
        cards.append(
            Card(
                "Zero-shot f-mIoU, student",
                percent(zero_shot["student"]["f_miou"]),
                f"lifted teacher {percent(teacher.get('f_miou'))}",
            )
        )
    if "trained" in probe:
        cards.append(
            Card(
                "Linear probe mIoU",
                percent(probe["trained"]["miou"]),
                f"random encoder {percent(probe.get('random', {}).get('miou'))}",
            )
        )
    if results["seconds"] is not None:
        cards.append(Card("Whole run", f"{results['seconds'] / 60:.1f} min", "rooms to report"))
    return cards


def _markdown(tables: Sequence[Table], command: str) -> str:
    """All tables of the report as Markdown."""
    parts = ["# Chorus report", "", f"Made by `{command}`.", ""]
    for t in tables:
        parts += [f"## {t.title}", "", markdown_table(t.header, t.rows), ""]
        parts += [t.note, ""] if t.note else []
        parts += [f"`{t.command}`", ""]
    return "\n".join(parts)


def _gallery(found: Mapping[str, Document], n: int) -> list[ViewPictures]:
    """The worst scenes of the fine-tuning result with the best mIoU; without one there is no gallery."""
    results = [d for d in found.values() if d["task"] == "finetune"]
    if not results or n == 0:
        return []
    return failure_gallery(max(results, key=lambda d: d["rows"]["trained"]["miou"]), n)


def _charts(found: Mapping[str, Document]) -> list[Chart]:
    charts = []
    log = _training_log(found)
    if log is not None and (curves := training_curves(read_log(log))) is not None:
        charts.append(Chart(f"Training ({log})", curves))
    shown = ("student", "features", "lifted_teacher", "trained", "random")
    for file, document in found.items():
        if document["task"] not in SEGMENTATIONS:
            continue
        rows = {k: r for k, r in document["rows"].items() if k in shown}
        bars = {ROW_NAMES[k]: {c: v["iou"] for c, v in r["per_class"].items()} for k, r in rows.items()}
        charts.append(Chart(f"{file}: IoU per class", class_bars(bars)))
        groups = {ROW_NAMES[k]: {g: v["miou"] for g, v in r["groups"].items()} for k, r in rows.items()}
        if any(groups.values()):
            charts.append(Chart(f"{file}: IoU per group of classes", class_bars(groups)))
        first, row = next(iter(rows.items()))
        confusion = row["confusion"]
        name = f"{file}, {ROW_NAMES[first]}"
        charts.append(
            Chart(
                f"{name}: share of each true class, in percent",
                confusion_picture(name, confusion["class_names"], np.array(confusion["counts"])),
            )
        )
    return charts


def _training_log(found: Mapping[str, Document]) -> Path | None:
    """log.jsonl of the run that trained the encoder; it lies in its folder or, for the best checkpoint, one above."""
    for document in found.values():
        encoder = document["inputs"].get("encoder")
        for folder in (Path(encoder), Path(encoder).parent) if encoder else ():
            if (folder / "log.jsonl").is_file():
                return folder / "log.jsonl"
    return None


def _pictures(found: Mapping[str, Document], config: ReportConfig) -> tuple[list[ViewPictures], list[str]]:
    """Pictures of a scene of the first zero-shot result that has them, and a line where none has.

    They show the teacher's cells beside the student's features, so there are none without a store.
    """
    results = {file: d for file, d in found.items() if d["task"] == "zero-shot"}
    if not config.views or not results:
        return [], []
    file, document = next(
        ((f, d) for f, d in results.items() if d["inputs"]["stores"] and d["inputs"]["teacher"]), ("", {})
    )
    if not file:
        return [], [
            f"{', '.join(results)}: no pictures, as they show the teacher's features; use zero-shot with --store"
        ]
    inputs = document["inputs"]
    name = _scene_name(document["per_scene"], config.scene)
    stores = [parse_store_path(s) for s in inputs["stores"]]
    store = next((s for s in stores if is_published(s / f"{name}.zarr")), None)
    if store is None:
        raise ConfigError(
            f"{stores[0] / name}.zarr: not there any more, or named relative to another folder; "
            "run the report where the evaluation ran, or with --views 0"
        )
    teacher, cache = inputs["teacher"], SceneCache.open(store / f"{name}.zarr")
    if teacher not in cache.dense_teachers:  # a student of other teachers, such as the released Chorus
        return [], [f"{file}: no pictures, as they show the teacher's features, and {store} has none of '{teacher}'"]
    subject = Subject(
        cache=cache,
        teacher=teacher,
        standardiser=PhiSStandardiser.load(store / "standardisers" / f"{teacher}.safetensors"),
        text_encoder=load_text_encoder(inputs["text_encoder"]),
        student=load_student(inputs["encoder"]) if inputs["encoder"] else None,
        tta_rotations=inputs.get("tta_rotations", 1),
        prompts=inputs["prompts"],
        synonyms=inputs["synonyms"],
    )
    return view_pictures(subject, config.views, config.queries), []


def _scene_name(scenes: Mapping[str, Any], wanted: str | None) -> str:
    names = list(scenes)
    if wanted is None:
        return names[0]
    for name in names:
        if wanted in (name, name.split("/", 1)[-1]):
            return name
    raise ConfigError(
        f"--scene {wanted}: not among the evaluated scenes ({', '.join(names[:5])}{' ...' if len(names) > 5 else ''})"
    )
