"""One part in this process: `python -m tests.gpu_check.part NAME DEVICE FILE SECONDS [--rehearse]`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from tests.gpu_check.context import Context, OutOfTime
from tests.gpu_check.parts import PARTS


def main() -> None:
    """Run it; its JSON says "done", "out of time" or what went wrong."""
    name, device, file, seconds, *rest = sys.argv[1:]
    context = Context(torch.device(device), "--rehearse" in rest, Path(file), time.monotonic() + float(seconds))
    if device == "cpu":
        torch.set_num_threads(1)
    status = "done"
    try:
        next(p for p in PARTS if p.name == name).run(context)
    except OutOfTime:
        status = "out of time: later rows were skipped"
    failed = [row for row in context.rows if row.get("passed") is False]
    if failed and status == "done":
        status = f"{len(failed)} of {len(context.rows)} checks failed"
    Path(file).write_text(json.dumps({"status": status, "rows": context.rows}, indent=1))


if __name__ == "__main__":
    main()
