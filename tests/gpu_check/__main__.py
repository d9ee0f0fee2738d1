"""All parts, one after the other, within the time: `python -m tests.gpu_check [--device cpu --rehearse]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.gpu_check.parts import PARTS, Part
from tests.gpu_check.wheels import unpack

ROOT = Path(__file__).parents[2]
#: seconds that are left for the end, and that a part needs to be worth starting
RESERVE, WORTH = 10, 8


def main() -> None:
    """Exit code 1 where a part failed; 0 where all that ran passed, whatever was skipped for lack of time."""
    options = _options()
    started, out = time.monotonic(), options.out.resolve()
    until = started + 60 * options.minutes - RESERVE
    out.mkdir(parents=True, exist_ok=True)
    environment = _environment(options, out)
    build = _compile_gsplat(out, environment) if options.device == "cuda" else None
    card = _machine(environment)
    say(f"{card.get('gpu', 'no GPU')}, PyTorch {card['torch']}, {options.minutes:g} minutes")
    result: dict[str, Any] = {"machine": card, "rehearsal": options.rehearse, "parts": {}}
    for part in PARTS:
        if options.parts and part.name not in options.parts:
            continue
        reason = _not_ready(part, build, until)
        status = reason or _run(part, options, out, environment, until)
        result["parts"][part.name] = {"status": status, "rows": _rows(out / f"{part.name}.json")}
        result["seconds"] = time.monotonic() - started
        (out / "results.json").write_text(json.dumps(result, indent=1))
        say(f"{part.name}: {status}")
    say(f"{out / 'results.json'}, {time.monotonic() - started:.0f} s")
    skipped = ("skipped", "out of time")
    bad = [name for name, p in result["parts"].items() if p["status"] != "done" and not p["status"].startswith(skipped)]
    raise SystemExit(1 if bad else 0)


def say(line: str) -> None:
    print(f"gpu-check: {line}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What only a CUDA card can show", prog="python -m tests.gpu_check")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rehearse", action="store_true", help="small sizes; with --device cpu no card is needed")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for everything")
    parser.add_argument("--wheels", type=Path, default=ROOT / "runs" / "gpu-wheels", help="packages that came along")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu-check", help="folder for the JSON")
    parser.add_argument("parts", nargs="*", help=f"only these, of {', '.join(p.name for p in PARTS)}")
    return parser.parse_args()


def _environment(options: argparse.Namespace, out: Path) -> dict[str, str]:
    """Variables of the parts: the working tree, and the packages that came along."""
    paths = [str(ROOT)]
    if any(options.wheels.glob("*.whl")):
        unpack(options.wheels, out / "site")
        paths.append(str(out / "site"))
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [environment.get("PYTHONPATH")])])
    environment["PATH"] = os.pathsep.join([str(out / "site" / "bin"), environment.get("PATH", "")])
    environment.setdefault("TORCH_EXTENSIONS_DIR", str(out / "extensions"))
    return environment


def _compile_gsplat(out: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """gsplat's extension, beside the parts that do not need it."""
    with open(out / "gsplat-build.log", "wb") as log:
        code = "from gsplat.cuda import _backend; assert _backend._C"
        return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=log, stderr=log)


def _not_ready(part: Part, build: subprocess.Popen[bytes] | None, until: float) -> str:
    """Why a part is not run; "" where it is."""
    if part.gsplat and build is not None:
        try:
            if build.wait(max(1.0, until - time.monotonic() - WORTH)):
                return "skipped: gsplat's extension cannot be compiled (gsplat-build.log)"
        except subprocess.TimeoutExpired:
            return "skipped: gsplat's extension was not compiled in time"
    return "" if until - time.monotonic() > WORTH else "skipped: no time left"


def _run(part: Part, options: argparse.Namespace, out: Path, environment: dict[str, str], until: float) -> str:
    """What became of a part in a process of its own."""
    file = out / f"{part.name}.json"
    file.unlink(missing_ok=True)
    # a rehearsal is about what happens, not about how fast: a busy CPU may take any time for a part
    left = until - time.monotonic()
    seconds = left if options.rehearse else min(part.seconds, left)
    command = [sys.executable, "-m", "tests.gpu_check.part", part.name, options.device, str(file), str(seconds)]
    log = out / f"{part.name}.log"
    with open(log, "w") as handle:
        try:
            subprocess.run(
                command + ["--rehearse"] * options.rehearse, cwd=ROOT, env=environment, stdout=handle,
                stderr=subprocess.STDOUT, timeout=seconds + 5, check=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"out of time after {seconds:.0f} s: later rows were skipped"
        except subprocess.CalledProcessError:
            lines = log.read_text().strip().splitlines()
            return f"failed: {lines[-1][:300] if lines else 'without a word'}"
    return str(json.loads(file.read_text())["status"])


def _rows(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text())["rows"] if file.exists() else []


def _machine(environment: dict[str, str]) -> dict[str, Any]:
    """The card and the versions, asked in a process of its own."""
    code = (
        "import json, torch, triton; c = torch.cuda.is_available(); "
        "p = torch.cuda.get_device_properties(0) if c else None; "
        "print(json.dumps({'torch': torch.__version__, 'triton': triton.__version__, 'cuda': torch.version.cuda, "
        "**({'gpu': p.name, 'gib': p.total_memory / 2**30, 'sm': f'{p.major}{p.minor}'} if c else {})}))"
    )
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return {"python": platform.python_version(), "cores": os.cpu_count(), **json.loads(said.stdout.splitlines()[-1])}


if __name__ == "__main__":
    main()
