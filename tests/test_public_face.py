"""The packages' public names, and what the four programs import: help must not wait for torch or numba."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from chorus_common.runtime.cli import LazyGroup
from chorus_common.runtime.version import __version__

ROOT = Path(__file__).parent.parent
PROGRAMS = {
    "chorus-data": "data_manifests.cli",
    "chorus-stage1": "stage1_render_teachers.cli",
    "chorus-stage2": "stage2_distill.cli",
    "chorus-eval": "evaluation.cli",
}
PACKAGES = ("chorus_common", "data_manifests", "stage1_render_teachers", "stage2_distill", "evaluation")
#: Packages whose __init__ hands out names lazily.
LAZY = sorted(
    ".".join(path.parent.relative_to(ROOT).parts)
    for package in PACKAGES
    for path in (ROOT / package).rglob("__init__.py")
    if "lazy_exports" in path.read_text(encoding="utf-8")
)
#: What takes a tenth of a second or more to import.
SLOW = {
    "torch", "numba", "scipy", "open_clip", "timm", "dask", "distributed", "zarr", "skimage", "matplotlib", "pyarrow",
    "numpy", "pydantic", "rich", "obstore",
}  # fmt: skip
#: A command's own help may need the settings that it shows: numpy and pydantic, not what computes.
COMPUTES = SLOW - {"numpy", "pydantic"}
STATUS_NEEDS = {"pyarrow", "numpy"}


def loaded(code: str, *arguments: object) -> set[str]:
    """Top-level packages in memory of a fresh process after it has run `code`."""
    report = "import sys, atexit; atexit.register(lambda: print('LOADED', *{m.split('.')[0] for m in sys.modules}));"
    done = subprocess.run(
        [sys.executable, "-c", report + code, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode in (0, 1), done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("LOADED"))
    return set(line.split()[1:])


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_and_version_import_nothing_slow(program: str) -> None:
    code = f"from {PROGRAMS[program]} import main; main()"
    for words in (("--help",), ("-h",), ("--version",)):
        assert loaded(code, *words) & SLOW == set(), words


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_of_every_command_imports_nothing_that_computes(program: str) -> None:
    """All commands in one process: what none of them imports, each does not."""
    code = (
        f"from {PROGRAMS[program]} import cli\n"
        "from click.testing import CliRunner\n"
        "for name in cli.list_commands(None):\n"
        "    done = CliRunner().invoke(cli, [name, '-h'])\n"
        "    assert done.exit_code == 0, done.output\n"
    )
    assert loaded(code) & COMPUTES == set()


def test_status_imports_no_more_than_tables(tmp_path: Path) -> None:
    from tests.stage1.small_rooms import write_rooms

    manifest = write_rooms(tmp_path / "rooms", 1, n_views=3)
    (tmp_path / "store").mkdir()
    words = ("status", "--manifest", manifest, "--store", tmp_path / "store", "--json")
    found = loaded("from stage1_render_teachers.cli import main; main()", *words)
    assert found & SLOW == STATUS_NEEDS


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_alone_is_cheap_to_import(package: str) -> None:
    assert loaded(f"import {package}") & SLOW == set()


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_list_of_commands_says_what_the_commands_say(program: str) -> None:
    cli = importlib.import_module(PROGRAMS[program]).cli
    assert isinstance(cli, LazyGroup)
    for name, entry in cli.lazy.items():
        command = entry.load()
        assert command.name == name
        assert (command.help or "").split("\n")[0] == entry.help, name


def commands(group: click.Group, prefix: str) -> list[tuple[str, click.Command]]:
    """Every command below `group`, with its whole name."""
    found = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append((f"{prefix} {name}", command))
        if isinstance(command, click.Group):
            found += commands(command, f"{prefix} {name}")
    return found


ALL = [pair for program, home in PROGRAMS.items() for pair in commands(importlib.import_module(home).cli, program)]


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_helps_are_full_sentences(name: str, command: click.Command) -> None:
    assert (command.help or "").split("\n")[0].endswith(".")
    for option in command.params:
        if isinstance(option, click.Option):
            text = (option.help or "").split("  [default:")[0]
            assert text[:1].isupper(), (name, option.opts)
            assert text.endswith((".", "?")), (name, option.opts)


def test_the_same_option_has_the_same_meaning_everywhere() -> None:
    """Type, repetition and default of what is called alike. --split and --out say what they mean to each command."""
    shared = {
        "--store": set(),
        "--device": set(),
        "--json": set(),
        "--set": set(),
        "--seed": set(),
        "--manifest": set(),
    }
    for _, command in ALL:
        for option in command.params:
            for name in shared.keys() & set(option.opts):
                assert isinstance(option, click.Option)
                default = option.default if isinstance(option.default, str | int) else None
                shared[name].add((type(option.type).__name__, default, option.is_flag))
    assert {name: len(kinds) for name, kinds in shared.items()} == dict.fromkeys(shared, 1), shared


@pytest.mark.parametrize("program", PROGRAMS)
def test_version(program: str) -> None:
    code = f"from {PROGRAMS[program]} import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == f"{program} {__version__}\n"


@pytest.mark.parametrize("package", LAZY)
def test_lazy_names_are_those_that_type_checkers_see(package: str) -> None:
    module = importlib.import_module(package)
    path = Path(str(module.__file__))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(seen) == set(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    submodules = {info.name for info in pkgutil.iter_modules([str(path.parent)])}
    assert not submodules & set(seen), "a submodule of the same name would take the place of the name"
    for name, home in seen.items():
        assert getattr(module, name) is getattr(importlib.import_module(str(home)), name), name
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed_and_few_names_are_public(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    names = importlib.import_module(package).__all__
    assert "__version__" in names
    assert 8 <= len(names) <= 20
