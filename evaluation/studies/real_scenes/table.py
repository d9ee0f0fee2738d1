"""The study's figures, read from the result files: what is missing is a dash."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from evaluation.studies.real_scenes.plan import STUDENTS, Study


def figures(study: Study) -> str:
    """Markdown tables of the parts that ran."""
    lines: list[str] = []
    if "lifted" in study.parts:
        rows = [[teacher.spec, *_cells([study.result(f"lifted {teacher.name}")], LIFTED)] for teacher in study.lifted]
        lines += _table(("lifted teacher, all scans", "mIoU", "macc", "f-mIoU"), rows)
    if "masks" in study.parts:
        rows = [[teacher.spec, *_cells([study.result(f"masks {teacher.name}")], OBJECTS)] for teacher in study.masks]
        lines += _table(("merged masks, scored scans", "AP", "AP50", "AP25"), rows)
    if "instances" in study.parts:
        rows = []
        for source in ("lifted_teacher", *(("student",) if study.named_by else ())):
            for on, masks in [*(("masks", masks) for masks in study.named), ("ground truth (oracle)", study.named[0])]:
                name, columns = f"{source} on {on}", [(f"{source} on {on}", key) for key in AP]
                of = f" of {masks.spec}" if on == "masks" else ""
                rows.append([name + of, *_cells([study.instances_result(masks)], columns)])
        lines += _table(("named masks, scored scans", "AP", "AP50", "AP25"), rows)
    if "fields" in study.parts:
        fields = {masks: [study.result(f"fields {masks.name}")] for masks in study.fields}
        rows = [[f"field on {masks.spec}", *_cells(paths, FIELD)] for masks, paths in fields.items()]
        rows.append(["plain lifting", *_cells(fields[study.fields[0]], LIFTED)])
        lines += _table(("features, scored scans", "mIoU", "macc", "f-mIoU"), rows)
    if "probes" in study.parts:
        rows = []
        for teacher in study.probed:
            paths = [study.result(f"probe {teacher.name} seed {seed}") for seed in range(study.seeds)]
            rows.append([teacher.spec, *_cells(paths, PROBE_ROW)])
        lines += _table(("linear probe, scored scans", "mIoU", "f-mIoU"), rows)
    if "students" in study.parts:
        runs = {v: [study.result(f"student {v.name} seed {seed}") for seed in range(study.seeds)] for v in STUDENTS}
        rows = [[variant.name, *_cells(paths, STUDENT_ROW)] for variant, paths in runs.items()]
        any_result = [path for paths in runs.values() for path in paths if path.exists()][:1]
        rows.append(["its lifted teacher", *_cells(any_result, PROBE_ROW)])
        lines += _table(("student, scored scans", "mIoU", "f-mIoU"), rows)
    return "\n".join(lines)


#: (row of the result, measure) of every column.
LIFTED = [("lifted_teacher", key) for key in ("miou", "macc", "f_miou")]
FIELD = [("features", key) for key in ("miou", "macc", "f_miou")]
AP = ("ap", "ap50", "ap25")
OBJECTS = [("masks", key) for key in AP]
PROBE_ROW = [("lifted_teacher", key) for key in ("miou", "f_miou")]
STUDENT_ROW = [("student", key) for key in ("miou", "f_miou")]


def _cells(paths: Sequence[Path], columns: Sequence[tuple[str, str]]) -> list[str]:
    """Mean ± deviation in per cent over the results that are there."""
    found: list[dict[str, Any]] = [json.loads(p.read_text(encoding="utf-8"))["rows"] for p in paths if p.exists()]
    return [spread([100 * rows[row][key] for rows in found]) for row, key in columns]


def spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return [*lines, ""]
