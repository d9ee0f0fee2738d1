"""The study's figures: read from the result files, spread over seeds, findings judged; written into the study's page.

The driver owns what stands between the two marks of the page; the text around them, which says why, is people's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev

from chorus_common.runtime.atomic import write_text_atomically
from chorus_common.runtime.errors import ConfigError
from evaluation.studies.distillation.plan import Study
from evaluation.studies.distillation.variants import FINDINGS, LABEL_SHARES, REFERENCE, SHORT, StudyFinding, Variant

BEGIN, END = "<!-- figures: written by python -m evaluation.studies.distillation -->", "<!-- end of figures -->"

#: (row, measure) -> value per seed
Scores = Mapping[tuple[str, str], Mapping[int, float]]


def read_scores(study: Study) -> Scores:
    """Everything that is there; what is missing is missing."""
    scores: dict[tuple[str, str], dict[int, float]] = {}

    def put(row: str, measure: str, seed: int, value: float) -> None:
        scores.setdefault((row, measure), {})[seed] = value

    for variant in study.chosen():
        for seed in range(study.seeds):
            folder = study.folder(variant.name, seed)
            for measure in ("zero_shot", "shifted"):
                rows = _rows(folder / f"{measure}.json")
                if "student" in rows:
                    put(variant.name, measure, seed, rows["student"]["f_miou"])
                    put(variant.name, f"{measure}_miou", seed, rows["student"]["miou"])
                    put("lifted teacher", measure, seed, rows["lifted_teacher"]["f_miou"])
                    put("lifted teacher", f"{measure}_miou", seed, rows["lifted_teacher"]["miou"])
            for points in variant.points:
                rows = _rows(folder / f"probe_{points}.json")
                share = next(s for s, p in LABEL_SHARES.items() if p == points)
                if rows:
                    put(variant.name, f"probe_{share}", seed, rows["trained"]["miou"])
                    put("random weights", f"probe_{share}", seed, rows["random"]["miou"])
    return scores


def figures(study: Study, command: str) -> str:
    """Markdown: the table of variants, the one of labels, the findings, and what was run."""
    scores = read_scores(study)
    lines = [
        f"{study.rooms} rooms to train on, {study.val} to score on, {study.seeds} seeds: mean ± standard deviation "
        f"over seeds, in per cent; the probe sees labels of 5 % of every training room's Gaussians. `{command}`",
        "",
        "| group | variant | steps | zero-shot f-mIoU | mIoU | linear probe mIoU | shifted domain f-mIoU | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    measures = ("zero_shot", "zero_shot_miou", "probe_5", "shifted")
    rows = [(v.group, v.name, v.says, _steps(study, v)) for v in study.chosen()]
    rows += [("yardsticks", n, n, "-") for n in ("lifted teacher", "random weights")]
    for group, name, says, steps in rows:
        cells = [spread(scores.get((name, m), {})) for m in measures]
        seeds = max((len(scores.get((name, m), {})) for m in measures), default=0)
        lines.append(f"| {group} | {says} | {steps} | {' | '.join(cells)} | {seeds} |")
    lines += ["", "| labels per room | " + " | ".join(f"{s} %" for s in LABEL_SHARES) + " |", "| --- |" + " --- |" * 4]
    for name in (REFERENCE.name, "random weights"):
        cells = [spread(scores.get((name, f"probe_{s}"), {})) for s in LABEL_SHARES]
        lines.append(f"| probe mIoU, {name} | {' | '.join(cells)} |")
    lines += ["", "| finding | here | difference, per cent points (per seed) |", "| --- | --- | --- |"]
    lines += [f"| {c.says} | {' | '.join(judged(c, scores))} |" for c in FINDINGS if _applies(c, scores)]
    return "\n".join(lines)


def _steps(study: Study, variant: Variant) -> str:
    if variant.adapt is None:
        return str(study.steps_of(variant))
    start = next(v for v in study.chosen() if v.name == variant.start)
    return f"{study.steps_of(start)} + {2 * study.steps_of(SHORT)}"


def spread(values: Mapping[int, float]) -> str:
    """Mean ± deviation in per cent; "-" where there is nothing."""
    found = [100 * v for v in values.values()]
    if not found:
        return "-"
    return f"{mean(found):.1f} ± {stdev(found):.1f}" if len(found) > 1 else f"{found[0]:.1f}"


def judged(finding: StudyFinding, scores: Scores) -> tuple[str, str]:
    """ "holds" where the difference is positive in every seed, "does not hold" where in none, else "undecided"; and the
    differences. One seed decides nothing.
    """
    better, worse = scores[(finding.better, finding.measure)], scores[(finding.worse, finding.measure)]
    differences = [100 * (better[s] - worse[s]) for s in sorted(better.keys() & worse.keys())]
    shown = ", ".join(f"{d:+.1f}" for d in differences)
    if len(differences) < 2:
        return "one seed only", shown
    positive = sum(d > 0 for d in differences)
    verdict = {0: "does not hold", len(differences): "holds"}.get(positive, "undecided")
    return verdict, f"{mean(differences):+.1f} ({shown})"


def write_page(path: Path, body: str) -> None:
    """Put `body` between the marks of the page; ConfigError where the page has lost them."""
    text = path.read_text(encoding="utf-8") if path.exists() else f"# Study\n\n{BEGIN}\n{END}\n"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{path}: has no '{BEGIN}' ... '{END}' to write between; put both lines back")
    write_text_atomically(path, f"{before}{BEGIN}\n\n{body}\n\n{END}{after}")


def _applies(finding: StudyFinding, scores: Scores) -> bool:
    sides = [scores.get((name, finding.measure), {}) for name in (finding.better, finding.worse)]
    return bool(sides[0].keys() & sides[1].keys())


def _rows(path: Path) -> Mapping[str, Mapping[str, float]]:
    if not path.exists():
        return {}
    rows: Mapping[str, Mapping[str, float]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows
