"""BERT's tokenizer (Devlin et al. 2019): basic split, then WordPiece, from a vocabulary in a tokenizer.json.

Written for uncased models: text is cleaned, lower-cased, stripped of accents, split at white space, punctuation and CJK
characters; every word becomes the longest pieces of the vocabulary from left to right.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

from chorus_common.runtime.errors import WeightsError, one_line

#: Words longer than this are unknown, as in BERT's code.
LONGEST_WORD = 100

#: First and last code points of the CJK ideographs that BERT makes words of their own.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


class WordPiece:
    """`vocabulary`: piece -> id; pieces inside a word begin with "##"."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self._ids = vocabulary
        self._first, self._last, self._unknown = (vocabulary[name] for name in ("[CLS]", "[SEP]", "[UNK]"))

    def encode(self, text: str, longest: int) -> list[int]:
        """Ids of `text` between [CLS] and [SEP], at most `longest` in all."""
        pieces = [piece for word in split_words(text) for piece in self._pieces(word)]
        return [self._first, *pieces[: longest - 2], self._last]

    def _pieces(self, word: str) -> list[int]:
        if len(word) > LONGEST_WORD:
            return [self._unknown]
        found = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            ends = (end for end in range(len(word), start, -1) if mark + word[start:end] in self._ids)
            end = next(ends, 0)
            if not end:
                return [self._unknown]
            found.append(self._ids[mark + word[start:end]])
            start = end
        return found


def split_words(text: str) -> list[str]:
    """Words and punctuation marks of `text`, lower-cased, without accents and control characters."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    characters = []
    for c in decomposed:
        kind = unicodedata.category(c)
        if c in "\t\n\r" or kind == "Zs":
            characters.append(" ")
        elif kind.startswith("C") or kind == "Mn" or c == "\ufffd":
            continue
        elif _is_punctuation(c) or any(first <= ord(c) <= last for first, last in _IDEOGRAPHS):
            characters.append(f" {c} ")
        else:
            characters.append(c)
    return "".join(characters).split()


def _is_punctuation(c: str) -> bool:
    """Unicode punctuation, and all of ASCII that is neither letter nor digit ("$", "^", "`")."""
    return unicodedata.category(c).startswith("P") or (c.isascii() and c.isprintable() and not c.isalnum() and c != " ")


def read_wordpiece(path: Path) -> WordPiece:
    """The tokenizer of a tokenizer.json. Raises WeightsError for a file that holds no WordPiece vocabulary."""
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        if model.get("type") != "WordPiece":
            raise ValueError(f"its model is {model.get('type')}")
        return WordPiece({str(piece): int(number) for piece, number in model["vocab"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: no tokenizer.json with a WordPiece vocabulary ({one_line(error)[:120]})") from None
