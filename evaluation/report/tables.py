"""The tables of a report: of every task its means, then what lies below them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.metrics.retrieval import FIGURES
from evaluation.report.coverage import VIEWS, covered
from evaluation.report.page import Table

Document = Mapping[str, Any]

ROW_NAMES = {
    "student": "student",
    "features": "feature files",
    "lifted_teacher": "lifted teacher",
    "lifted_teacher_seen_only": "lifted teacher, unseen = wrong",
    "trained": "trained encoder",
    "random": "random encoder",
}
#: Tasks whose rows are scores of one confusion matrix.
SEGMENTATIONS = ("zero-shot", "probe", "finetune")
#: Tasks that a report shows, in its order.
TASKS = (*SEGMENTATIONS, "instances", "retrieval")

_TITLES = {
    "zero-shot": "Zero-shot segmentation",
    "probe": "Linear probe",
    "instances": "Open-vocabulary instances",
    "retrieval": "Instance retrieval",
}
_MEANS = (
    ("miou", "mIoU"),
    ("f_miou", "f-mIoU"),
    ("macc", "mAcc"),
    ("f_macc", "f-mAcc"),
    ("overall_accuracy", "accuracy"),
)
_AP = (("ap", "AP"), ("ap50", "AP50"), ("ap25", "AP25"))
_RETRIEVAL = ("recall@1", "mAP", "class recall@1", "class mAP")


def title_of(file: str, document: Document) -> str:
    """What a result is of, and its file: there may be several results of one task."""
    task = document["task"]
    if task != "finetune":
        return f"{_TITLES[task]} ({file})"
    config = document["inputs"]["config"]
    what = "everything" if config["mode"] == "full" else f"{config['mode']} probe"
    return f"Fine-tuning, {config['task']}: {what} ({file})"


def tables_of(file: str, document: Document) -> list[Table]:
    """All tables of one result of `TASKS` that has rows."""
    title, task = title_of(file, document), document["task"]
    label = {key: ROW_NAMES.get(key, key) for key in document["rows"]}
    if task == "instances":
        return [*_instance_tables(title, document, document["rows"], label), _per_scene(title, document, label, "ap50")]
    if task == "retrieval":
        return [_retrieval_table(title, document, label)]
    instances = {k: r["instances"] for k, r in document["rows"].items() if "instances" in r}
    found = [_means(title, document, label), *_group_tables(title, document, label)]
    if instances:
        found += _instance_tables(f"{title}: instances", document, instances, label)
    return [
        *found,
        _per_class(title, document, label),
        _per_scene(title, document, label, "miou"),
        _published(title, document, label),
    ]


def percent(value: float | None) -> str:
    """A share for people; a dash for what is not defined."""
    return "–" if value is None else f"{100 * value:.1f}"


def _means(title: str, document: Document, label: Mapping[str, str]) -> Table:
    note = (
        "Means over the classes in the ground truth; a Gaussian without a prediction is wrong. "
        f"f-: without wall, floor, ceiling.{_left_out(document)}"
    )
    rows = tuple(
        (label[k], *(percent(r[key]) for key, _ in _MEANS), str(r["n_classes"])) for k, r in document["rows"].items()
    )
    return Table(title, document["command"], ("", *(name for _, name in _MEANS), "classes"), rows, note)


def _left_out(document: Document) -> str:
    """A sentence about the scenes that are not in the result; "" where all are."""
    reasons = [f"{name} ({reason})" for name, reason in document["excluded"].items()]
    more = f" and {len(reasons) - 5} more" if len(reasons) > 5 else ""
    return f" Left out: {', '.join(reasons[:5])}{more}." if reasons else ""


def _published(title: str, document: Document, label: Mapping[str, str]) -> Table:
    rows = document["rows"]
    header = ("definition", *(f"{label[k]} {m}" for k in rows for m in ("mIoU", "f-mIoU")))
    lines = tuple(
        (name, *(percent(r["published_definitions"][name][m]) for r in rows.values() for m in ("miou", "f_miou")))
        for name in next(iter(rows.values()))["published_definitions"]
    )
    what = f"{title}: the same predictions by published definitions"
    return Table(what, document["command"], header, lines, "Definitions: docs/guide/evaluate.md.")


def _per_class(title: str, document: Document, label: Mapping[str, str]) -> Table:
    rows = document["rows"]
    classes = [c for c, v in next(iter(rows.values()))["per_class"].items() if v["iou"] is not None]
    lines = tuple((label[k], *(percent(r["per_class"][c]["iou"]) for c in classes)) for k, r in rows.items())
    return Table(f"{title}: IoU per class", document["command"], ("", *classes), lines)


def _per_scene(title: str, document: Document, label: Mapping[str, str], metric: str) -> Table:
    """`metric` of every scene alone and, where the stores tell, the share of its Gaussians that enough views see."""
    name = {**dict(_MEANS), **dict(_AP)}[metric]
    scenes, shares = document["per_scene"], covered(document)
    header = ["scene", *(f"{label[k]} {name}" for k in document["rows"])]
    lines = [(s, *(percent(v.get(k, {}).get(metric)) for k in document["rows"])) for s, v in scenes.items()]
    note = ""
    if shares:
        header.insert(1, f"seen by {VIEWS} views")
        lines = [(scene, percent(shares.get(scene)), *values) for scene, *values in lines]
        note = f"Seen by {VIEWS} views: share of the Gaussians that at least {VIEWS} views of the cache see."
    return Table(f"{title}: per scene", document["command"], tuple(header), tuple(lines), note)


def _group_tables(title: str, document: Document, label: Mapping[str, str]) -> list[Table]:
    """Head, common and tail, where the label space has them."""
    rows = document["rows"]
    groups = list(next(iter(rows.values()))["groups"])
    if not groups:
        return []
    header = ("", *(f"{group} {mean}" for group in groups for mean in ("mIoU", "mAcc")))
    lines = tuple(
        (label[k], *(percent(r["groups"][group][mean]) for group in groups for mean in ("miou", "macc")))
        for k, r in rows.items()
    )
    return [Table(f"{title}: groups of classes", document["command"], header, lines)]


def _instance_tables(title: str, document: Document, rows: Mapping[str, Any], label: Mapping[str, str]) -> list[Table]:
    """AP in the mean, in groups where there are some, and per class; rows: name -> scores of instances."""
    first = next(iter(rows.values()))
    groups = list(first["groups"])
    header = ("", *(f"{prefix}{name}" for prefix in ("", *(f"{g} " for g in groups)) for _, name in _AP))
    means = tuple(
        (label[k], *(percent(part[key]) for part in (r, *(r["groups"][g] for g in groups)) for key, _ in _AP))
        for k, r in rows.items()
    )
    classes = [c for c, v in first["per_class"].items() if v["n_gt"]]
    per_class = tuple((label[k], *(percent(r["per_class"][c]["ap50"]) for c in classes)) for k, r in rows.items())
    note = f"ScanNet's official AP.{_left_out(document)}"
    return [
        Table(title, document["command"], header, means, note),
        Table(f"{title}: AP50 per class", document["command"], ("", *classes), per_class),
    ]


def _retrieval_table(title: str, document: Document, label: Mapping[str, str]) -> Table:
    """A line per row and perturbation, the mean last."""
    lines = tuple(
        (label[k], perturbation, *(percent(figures[key]) for key in FIGURES))
        for k, row in document["rows"].items()
        for perturbation, figures in row.items()
    )
    note = (
        f"Gallery: {document['inputs']['gallery']}; a random ranking has recall@1 {percent(document['chance'])}. "
        f"Definition: docs/guide/open-vocabulary.md.{_left_out(document)}"
    )
    return Table(title, document["command"], ("", "perturbation", *_RETRIEVAL), lines, note)
