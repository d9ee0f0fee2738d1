"""JSON of the check -> tables of docs/experiments/gpu.md: `python -m tests.gpu_check.tables RESULTS.json [PAGE]`.

Without a page the tables are printed; with one they replace what stands between its two comments.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chorus_common.runtime.atomic import atomic_path

BEGIN, END = "<!-- tables of make gpu-check -->", "<!-- end of the tables -->"
VERSIONS = {"PyTorch": "torch", "Triton": "triton", "Python": "python"}
TITLES = {
    "encoder_parity": "Encoders against the CPU: relative L2 in float32, in bfloat16, and of a cloud alone",
    "step_parity": "Training steps against the CPU: largest relative difference of losses and of weights",
    "encoder_table": "Forward passes",
    "official": "The official size against upstream's algorithm, written plainly, in the same run",
    "tiles": "Output rows that the device takes at a time",
    "training": "Stage 2",
    "raster_parity": "The gsplat backend against the CPU one: shares of pixels and pairs that differ by more than 1e-3",
    "marked_tests": "Tests marked gpu",
    "views": "Views per second, and the share of each step",
    "kernel": "The kernel of cell weights by warps per tile",
}


def tables(results: dict[str, Any]) -> Iterator[str]:
    """Lines of Markdown: what ran on what, then a table per part."""
    machine = results["machine"]
    where = machine.get("gpu", "a CPU, as a rehearsal at small sizes")
    versions = ", ".join(f"{name} {machine[key]}" for name, key in VERSIONS.items())
    yield f"On {where}: {versions}, {results['seconds']:.0f} s."
    for name, part in results["parts"].items():
        yield ""
        yield f"**{TITLES.get(name, name)}** ({part['status']})"
        if part["rows"]:
            yield ""
            yield from _table(part["rows"])


def _table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One table per group of rows that have the same columns."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(key for key, value in row.items() if value is not None), []).append(row)
    for number, (columns, members) in enumerate(groups.items()):
        if number:
            yield ""
        yield "| " + " | ".join(columns) + " |"
        yield "|---" * len(columns) + "|"
        for row in members:
            yield "| " + " | ".join(_cell(row[column]) for column in columns) + " |"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value).replace("|", "/")


def main() -> None:
    """Print the tables, or put them into a page."""
    results = json.loads(Path(sys.argv[1]).read_text())
    text = "\n".join(tables(results))
    if len(sys.argv) < 3:
        print(text)
        return
    page = Path(sys.argv[2])
    before, _, rest = page.read_text().partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{page}: has no place for the tables ({BEGIN} ... {END})")
    with atomic_path(page) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


if __name__ == "__main__":
    main()
