"""MkDocs hooks: they add the generated reference pages and hold the finished site to reading nothing from elsewhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parents[2]))

from command_line_pages import command_line_pages
from python_pages import python_pages
from settings_pages import settings_pages

_PAGES: dict[str, dict[str, str]] = {}
#: What a browser fetches by itself while it shows a page: scripts, styles, pictures, frames.
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|link(?![^>]*rel="?canonical))\b[^>]*?(?:src|href)="?(https?:)?//"""
)
_FETCHED_BY_STYLE = re.compile(r"url\(\s*[\"']?(https?:)?//|@import")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the pages, and put them into the navigation in place of `generated:NAME`."""
    _PAGES.update({"command-line": command_line_pages(), "settings": settings_pages(), "python": python_pages()})
    config.nav = [_with_generated(entry) for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for pages in _PAGES.values():
        for path, text in pages.items():
            files.append(File.generated(config, path, content=text))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that would fetch anything from another place while it is read."""
    for path, line in _fetched(Path(config.site_dir)):
        raise PluginError(f"{path}: fetches something from elsewhere: {line}")


def _with_generated(entry: Any) -> Any:
    if isinstance(entry, dict):
        ((title, content),) = entry.items()
        if isinstance(content, str) and content.startswith("generated:"):
            return {title: _grouped(list(_PAGES[content.removeprefix("generated:")]))}
        if isinstance(content, list):
            return {title: [_with_generated(child) for child in content]}
    return entry


def _grouped(pages: list[str]) -> list[Any]:
    """Pages of one package, reference/python/PACKAGE.ROOM.md, under the package's name; other pages as they are."""
    groups: dict[str, list[Any]] = {}
    for page in pages:
        package, _, room = Path(page).name.removesuffix(".md").partition(".")
        groups.setdefault(package, []).append({room: page} if room else page)
    return [{name: inside} if len(inside) > 1 else inside[0] for name, inside in groups.items()]


def _fetched(site: Path) -> Iterator[tuple[Path, str]]:
    for pattern, ending in ((_FETCHED, "html"), (_FETCHED_BY_STYLE, "css")):
        for path in sorted(site.rglob(f"*.{ending}")):
            if found := pattern.search(path.read_text(encoding="utf-8")):
                yield path, found[0]
