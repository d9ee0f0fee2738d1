"""chorus-eval compare."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from chorus_common.runtime.errors import EXIT_DONE, ConfigError
from chorus_common.runtime.options import FILE, PATH, out_option, seed_option
from evaluation.results import command_line, result_document, write_result


@click.command("compare")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@click.option("--row-a", help="Row of A.  [default: its first]")
@click.option("--row-b", help="Row of B.  [default: that of A]")
@click.option("--draws", type=click.IntRange(min=100), default=2000, help="Bootstrap draws (at most 200 for AP).")
@click.option("--level", type=click.FloatRange(0.5, 0.999), default=0.95, help="Share of the draws in the interval.")
@seed_option("Seed of the draws.")
@click.option(
    "--format", "kind", type=click.Choice(["markdown", "latex"]), default="markdown", help="Format of the table."
)
@out_option("Also write a result file (JSON).", FILE, required=False)
def compare_command(
    a: Path,
    b: Path,
    row_a: str | None,
    row_b: str | None,
    draws: int,
    level: float,
    seed: int,
    kind: str,
    out: Path | None,
) -> int:
    """Compare two results with confidence intervals.

    Differences B - A are taken on the scenes that both results scored; intervals are over scenes.
    """
    from evaluation.comparison import compare
    from evaluation.report.export import latex_table, markdown_table
    from evaluation.results import read_result
    from evaluation.scene_scores import SceneScores, scores_path

    row_a = _row(a, read_result(a), row_a)
    row_b = _row(b, read_result(b), row_b or row_a)
    scores = [SceneScores.read(scores_path(path)) for path in (a, b)]
    found = compare(scores[0], row_a, scores[1], row_b, draws=draws, level=level, seed=seed)
    header = ("metric", "A", "B", "B - A", f"{100 * level:g} % interval", "B better in", "scenes")
    rows_of_text = [
        (
            d.metric, _percent(d.a, ".1f"), _percent(d.b, ".1f"), _percent(d.difference, "+.1f"),
            f"{_percent(d.low, '+.1f')} to {_percent(d.high, '+.1f')}", f"{_percent(d.better, '.0f')} % of draws",
            str(d.n_scenes),
        )
        for d in found
    ]  # fmt: skip
    caption = f"{b.name} ({row_b}) against {a.name} ({row_a}); paired bootstrap over scenes, {draws} draws, seed {seed}"
    latex = kind == "latex"
    click.echo(latex_table(header, rows_of_text, caption) if latex else markdown_table(header, rows_of_text))
    if out is not None:
        inputs = {"a": str(a), "b": str(b), "row_a": row_a, "row_b": row_b, "draws": draws, "seed": seed}
        body = {d.metric: vars(d) | {"difference": d.difference, "decided": d.decided} for d in found}
        known = {metric: {key: _known(value) for key, value in entry.items()} for metric, entry in body.items()}
        write_result(out, result_document("compare", command_line(), inputs, {"differences": known}))
    return EXIT_DONE


def _percent(value: float, form: str) -> str:
    """A share in per cent; a dash where a metric is not defined on these scenes."""
    return "–" if math.isnan(value) else format(100 * value, form)


def _known(value: Any) -> Any:
    """JSON has no NaN: what is not defined is null."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _row(path: Path, result: dict[str, Any], wanted: str | None) -> str:
    """The row `wanted` of a result, or its first."""
    rows = list(result.get("rows", {}))
    if not rows:
        raise ConfigError(f"{path}: a result of {result['task']} has no rows to compare")
    if wanted is not None and wanted not in rows:
        raise ConfigError(f"{path}: has no row '{wanted}'; it has {', '.join(rows)}")
    return wanted or rows[0]
