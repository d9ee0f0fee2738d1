"""`make bench`: runs every tests/bench/bench_*.py, prints their rows and leaves runs/bench/results.json.

python -m tests.bench [topic ...]     topic = the part of the file name after bench_; all by default
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path

from chorus_common.runtime.atomic import write_text_atomically
from tests.bench.row import Row

HERE = Path(__file__).parent
RESULTS = Path("runs/bench/results.json")


def main(topics: list[str]) -> int:
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    if unknown := sorted(set(topics) - set(known)):
        print(f"error: no benchmark named {unknown[0]}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    rows = {row["name"]: row for row in json.loads(RESULTS.read_text())} if RESULTS.is_file() and topics else {}
    failed = []
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for topic in topics or known:
        started = time.monotonic()
        try:
            measured: list[Row] = importlib.import_module(f"tests.bench.bench_{topic}").rows()
        except Exception:
            traceback.print_exc()
            failed.append(topic)
            continue
        for row in measured:
            rows[row.name] = row.as_dict()
            low, high = rows[row.name]["spread"]
            spread = f" ({low:.3g} to {high:.3g})" if low != high else ""
            against = ""
            if row.baseline_value is not None:
                against = f"   {row.ratio:8.3g} x{spread}  against {row.baseline} ({row.baseline_value:.4g})"
            print(f"{row.name:42s} {row.value:10.4g} {row.unit:24s}{against}", flush=True)
        print(f"  ({topic}: {time.monotonic() - started:.0f} s)", flush=True)
        write_text_atomically(RESULTS, json.dumps(list(rows.values()), indent=2) + "\n")
    print(f"written to {RESULTS}")
    if failed:
        print(f"error: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
