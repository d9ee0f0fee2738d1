"""The documentation's pages and their fenced code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: the page it stands on, the line it begins at, its language, its text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Every Markdown page that people read."""
    own = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data_manifests/README.md")]
    return [page for page in own if page.exists()] + sorted((ROOT / "docs").rglob("*.md"))


def blocks(page: Path, *languages: str) -> list[Block]:
    """The page's fenced blocks in these languages, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found[2], _without_indent(found[3], len(found[1])))
        for found in _FENCE.finditer(text)
        if found[2] in languages
    ]


def _without_indent(text: str, width: int) -> str:
    return "".join(line[width:] if line.strip() else line for line in text.splitlines(keepends=True))
