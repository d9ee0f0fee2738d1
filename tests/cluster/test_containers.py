"""What container and conda files name is what pyproject.toml says: extras, Python, files."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
CONTAINERS = ROOT / "cluster" / "containers"
FILES = {name: (CONTAINERS / name).read_text() for name in ("Dockerfile", "chorus.def")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def joined(text: str) -> str:
    """Lines without comments; a line that ends with a backslash goes on."""
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return kept.replace("\\\n", "")


@pytest.mark.parametrize("name", FILES)
def test_extras_are_those_of_the_project(name: str) -> None:
    named = re.findall(r"\[([a-z0-9,]+)\]'", joined(FILES[name]))
    assert named, "installs the package with extras"
    assert {extra for group in named for extra in group.split(",")} <= set(PROJECT["optional-dependencies"])
    assert {"onnx", "siglip", "s3", "slurm"} == set(named[-1].split(",")), "both files install the same"


@pytest.mark.parametrize("name", [*FILES, "environment.yml"])
def test_python_is_one_that_the_project_takes(name: str) -> None:
    text = FILES.get(name) or (ROOT / "cluster" / name).read_text()
    versions = set(re.findall(r"python=?(3\.\d+)", joined(text)))
    assert len(versions) == 1
    assert all(version in SpecifierSet(PROJECT["requires-python"]) for version in versions)


def test_both_images_stand_on_the_same_cuda_and_the_same_packages() -> None:
    images = {re.search(r"^(?:FROM|From:) +(\S+)", joined(text), re.MULTILINE).group(1) for text in FILES.values()}  # type: ignore[union-attr]
    assert len(images) == 1
    packages = [
        re.search(r"apt-get install -y --no-install-recommends ([a-z0-9. -]+)", joined(t)) for t in FILES.values()
    ]
    assert len({match.group(1).strip() for match in packages if match}) == 1
    assert all(packages)


def test_the_first_layer_of_the_docker_image_asks_for_what_the_last_one_needs() -> None:
    """The program in the RUN line prints the requirements of the package and of the extras that are then installed."""
    run = next(line for line in joined(FILES["Dockerfile"]).splitlines() if line.startswith("RUN python -c"))
    words = shlex.split(run.removeprefix("RUN "))
    program = words[2]
    printed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = list(PROJECT["dependencies"])
    for extra in re.findall(r"\[([a-z0-9,]+)\]'", FILES["Dockerfile"])[-1].split(","):
        wanted += PROJECT["optional-dependencies"][extra]
    assert printed.stdout.splitlines() == wanted
    assert words[3:6] == [">", "needed.txt", "&&"]


def test_files_that_are_copied_are_there() -> None:
    for line in joined(FILES["Dockerfile"]).splitlines():
        if line.startswith("COPY "):
            assert all((ROOT / name).exists() for name in line.split()[1:-1])
    named = [word for text in FILES.values() for word in re.findall(r"cluster/containers/[\w.]+", text)]
    assert named
    assert all((ROOT / name).is_file() for name in named)


def test_programs_of_the_last_line_are_those_of_the_project() -> None:
    for text in FILES.values():
        programs = set(re.findall(r"chorus-[a-z0-9]+", text))
        assert programs
        assert programs <= set(PROJECT["scripts"])
