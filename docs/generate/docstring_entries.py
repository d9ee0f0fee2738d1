"""A griffe extension: what docstrings write shortly, as Markdown needs it.

`a, b: text` under Attributes or Args stands for an entry `a` and an entry `b`; doctests become blocks of code.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Docstring, Extension, Object

_SHARED = re.compile(r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+): (?P<text>.*(?:\n(?P=indent) +.*)*)", re.MULTILINE)
#: A word in brackets right behind another one would be taken for a link of Markdown.
_BRACKETS = re.compile(r"\]\[")


#: A doctest: a line with the prompt and what follows it until an empty line.
_DOCTEST = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?P=indent)\S.*)*", re.MULTILINE)


class SharedEntries(Extension):
    """Rewrites docstrings before mkdocstrings reads them; the source keeps its shorter form."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Called for each module, class, function and attribute that griffe has read."""
        if obj.docstring is not None:
            _rewrite(obj.docstring)


def _rewrite(docstring: Docstring) -> None:
    docstring.value = _DOCTEST.sub(r"\g<indent>```pycon\n\g<0>\n\g<indent>```", docstring.value)
    head, section, entries = docstring.value.partition("Attributes:")
    if not section:
        head, section, entries = docstring.value.partition("Args:")
    docstring.value = _no_links(head) + section + _no_links(_SHARED.sub(_each, entries))


def _no_links(text: str) -> str:
    parts = text.split("`")
    parts[::2] = [_BRACKETS.sub("]\\\\[", part) for part in parts[::2]]
    return "`".join(parts)


def _each(match: re.Match[str]) -> str:
    return "\n".join(f"{match['indent']}{name}: {match['text']}" for name in match["names"].split(", "))
