"""What pages name exists: links, files, commands and their options, make targets, Python names; examples parse."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.docs.pages import ROOT, Block, blocks, pages

sys.path.insert(0, str(ROOT / "docs" / "generate"))
from command_line_pages import programs, root_context
from settings_pages import attribute_texts, settings_pages

PAGES = pages()
PACKAGES = ("chorus_common", "data_manifests", "stage1_render_teachers", "stage2_distill", "evaluation")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
#: A path in backticks that begins with a folder of the repository.
_PATH = re.compile(
    rf"`((?:{'|'.join((*PACKAGES, 'tests', 'docs'))})/[\w/.-]+\.(?:py|toml|md|sh|sbatch|json|npz|tsv|yml))"
)


def test_pages_that_code_names_exist() -> None:
    files = [
        path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in (".py", ".toml", ".sh")
    ]
    for path in [*files, ROOT / "Makefile", ROOT / "pyproject.toml"]:
        for named in re.findall(r"(?<![\w/-])docs/[\w/-]+\.md", path.read_text(encoding="utf-8")):
            assert (ROOT / named).exists() or "Instant-NGP" in path.read_text(encoding="utf-8"), f"{path}: {named}"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    """Anchors and pages within docs/ are checked by the strict build of the site as well."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in _LINK.findall(text):
        if re.match(r"https?:|#|mailto:", target):
            continue
        path = page.parent / target.split("#")[0]
        generated = {ROOT / "docs" / name for name in settings_pages()} | {
            ROOT / "docs" / "reference" / f"{program}.md" for program in programs()
        }
        assert path.exists() or path.resolve() in generated or "reference/python" in str(path), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_exist(page: Path) -> None:
    for path in _PATH.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_import_what_is_there(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block.text, str(block))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{block}: {node.module}.{alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist_with_their_options(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for block in blocks(page, "bash"):
        for words in commands(block):
            if words[0] == "make":
                named = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
                assert set(named) <= set(targets), f"{block}: make {named}"
            elif words[0] in programs():
                check_command(block, words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_toml_blocks_parse(page: Path) -> None:
    for block in blocks(page, "toml"):
        tomllib.loads(block.text)


def commands(block: Block) -> Iterator[list[str]]:
    """The block's commands as words; "[--option X]" in a synopsis counts as given, "..." as nothing."""
    for line in block.text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(?<![\w\"'=])[\[\]]|[\[\]](?=\s|$)", " ", line.split("  #")[0].split("   ")[0])
        for part in re.split(r"&&|;|\|\||(?<!\S)\|(?!\S)", line):
            words = [word for word in shlex.split(part, comments=True) if word != "..."]
            words = words[1:] if words[:1] == ["do"] else words
            if words:
                yield words


def check_command(block: Block, words: list[str]) -> None:
    command: click.Command = programs()[words[0]]
    context = root_context(words[0], command)
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        choices = rest[0].split("|")
        found = [command.get_command(context, choice) for choice in choices]
        assert all(found), f"{block}: {' '.join(words)}: no command {rest[0]}"
        command, rest = found[0] or command, rest[1:]
        context = click.Context(command, info_name=choices[0], parent=context)
    known = {name for parameter in command.get_params(context) for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        if word.startswith("--"):
            assert word.split("=")[0] in known, f"{block}: {' '.join(words)}: no option {word}"


def test_every_setting_has_a_meaning() -> None:
    """A key without a meaning is a key that nobody can use: give the field a description, a `#:` comment or an entry
    under `Attributes:`. Sections explain themselves in their own table.
    """
    rows = [row for page in settings_pages().values() for row in page.splitlines() if row.startswith("| `")]
    silent = [row.split("|")[1].strip() for row in rows if re.search(r"\|\s*\|$", row) and "see below" not in row]
    assert len(rows) > 150
    assert silent == []


def test_attribute_texts_reads_entries_that_share_a_line() -> None:
    from stage2_distill.settings import LossSchedule, MaskContrastSettings

    texts = attribute_texts(MaskContrastSettings)
    assert texts["pixels"].startswith("cells drawn per view")
    assert "mask" not in texts["views"]
    assert texts["start"] == texts["end"] == attribute_texts(LossSchedule)["start"]
