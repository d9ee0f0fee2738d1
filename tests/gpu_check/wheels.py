"""Packages that come along: `python -m tests.gpu_check.wheels FOLDER` fetches them (with a network); the check unpacks
them into its own folder (without one).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

LIST = Path(__file__).with_name("wheels.txt")
#: so much travels beside the working tree
LIMIT_MIB = 64
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def download(folder: Path, python: str = "3.12") -> float:
    """Fetch all wheels of wheels.txt for CPython `python` on Linux x86-64; returns their size in MiB."""
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [f"--platform={p}" for p in _PLATFORMS]
    # pydantic names the exact pydantic-core that it works with; without dependencies pip would take the newest
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--implementation=cp",
        f"--python-version={python}", f"--abi=cp{python.replace('.', '')}", "--abi=abi3", "--abi=none", *platforms,
        f"--dest={folder}", "--requirement",
    ]  # fmt: skip
    subprocess.run([*command, str(LIST)], check=True)
    _pin_pydantic_core(folder, command)
    return sum(f.stat().st_size for f in folder.glob("*.whl")) / 2**20


def _pin_pydantic_core(folder: Path, command: list[str]) -> None:
    import re
    import zipfile

    wheel = next(folder.glob("pydantic-2*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(archive.read(n).decode() for n in archive.namelist() if n.endswith("METADATA"))
    wanted = re.search(r"Requires-Dist: pydantic-core==([\d.]+)", metadata)
    assert wanted is not None
    if not list(folder.glob(f"pydantic_core-{wanted[1]}-*.whl")):
        for other in folder.glob("pydantic_core-*.whl"):
            other.unlink()
        subprocess.run([*command[:-1], f"pydantic-core=={wanted[1]}"], check=True)


def unpack(wheels: Path, into: Path) -> None:
    """Install all wheels of a folder into `into`, for PYTHONPATH; nothing is fetched and nothing else is changed."""
    files = sorted(str(f) for f in wheels.glob("*.whl"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*command, "--upgrade", "--target", str(into), *files], check=True)


def main() -> None:
    """Fetch, and say how much it is; exit code 2 where it is more than may travel."""
    parser = argparse.ArgumentParser(description="Fetch what `make gpu-check` needs on a machine without a network")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version of Python on that machine")
    options = parser.parse_args()
    size = download(options.folder, options.python)
    print(f"{options.folder}: {len(list(options.folder.glob('*.whl')))} wheels, {size:.1f} MiB of {LIMIT_MIB}")
    if size > LIMIT_MIB:
        raise SystemExit(2)


if __name__ == "__main__":
    main()
