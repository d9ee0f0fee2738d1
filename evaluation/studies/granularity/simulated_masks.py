"""A mask teacher made from the generator's truth, with the faults of real ones, for studies of granularity selection.

The embedded text teacher knows classes and no parts, and its masks come from colour edges; with it nobody could tell
whether a field picks the right granularity. So this teacher simulates SAM with CLIP per mask, from the parts of a
synthetic room. What it assumes:

- For each thing one level fits, and the others differ from view to view. A thing without parts: whole = the thing,
  part = fragments, subpart = smaller ones. A thing with parts is by a coin "fine" (whole = one mask with two other such
  things nearby, part = its parts, subpart = fragments) or "coarse" (whole = one mask with three others, part = with
  two, subpart = its parts). Companions and cuts are drawn anew in every view.
- SAM's outputs slip: with probability `slip` a view has a thing with parts the other way round.
- The embedding of a mask is the vector of its name plus noise, more of it for small masks; that of a joint mask begins
  with the mean of its members. A mask that is no thing and no part (a fragment) is often read as some other thing.

Names are made of words, words are random directions: "chair seat" lies between "chair" and "seat". So the study says
what selection does with such masks, and nothing about a language model.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache.schema import MaskTeacherAttributes
from chorus_common.lifting import LiftingIndex
from chorus_common.runtime.config import Config

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

TEACHER = "simulated"
LEVELS = ("whole", "part", "subpart")

#: Among how many of the nearest things with parts a joint mask finds its companions.
NEAR = 6


class Faults(Config):
    """How bad the simulated teacher is.

    Attributes:
        slip: chance per view that a thing with parts changes its kind.
        noise: length of the noise on the vector (length one) of a large mask; small_noise is added for masks that are
            small against `small_cells` cells.
        misread, misread_fragment: chance that a mask of a thing or part, or a fragment, gets another thing's name.
        fragment_cells: cells per fragment; half of it for the smaller ones.
    """

    slip: float = 0.15
    noise: float = 0.25
    small_noise: float = 0.35
    small_cells: float = 6.0
    misread: float = 0.05
    misread_fragment: float = 0.7
    fragment_cells: float = 12.0


class WordSpace:
    """A text encoder in which each word is a random direction and a phrase the normalised sum of its words."""

    spec, pair = "simulated", ""

    def __init__(self, channels: int = 64) -> None:
        self.channels = channels

    def encode(self, texts: list[str]) -> F32:
        """Unit rows [K, channels]."""
        rows = [np.sum([self._word(w) for w in text.lower().split() or [""]], axis=0) for text in texts]
        table = np.array(rows, dtype=np.float64).reshape(len(texts), self.channels)
        return (table / np.linalg.norm(table, axis=1, keepdims=True)).astype(np.float32)

    def _word(self, word: str) -> NDArray[np.float64]:
        vector = np.random.default_rng(zlib.crc32(word.encode())).standard_normal(self.channels)
        return vector / np.linalg.norm(vector)


@dataclass(frozen=True, eq=False)
class PartTruth:
    """Parts of a room: names [Q] ("chair seat", or "box" for a thing of one part), things [Q] (which instance), and
    thing_names [I].
    """

    names: tuple[str, ...]
    things: I64
    thing_names: tuple[str, ...]

    @staticmethod
    def read(document: Mapping[str, Any], present: NDArray[np.integer]) -> PartTruth:
        """From a room's parts.json; a thing counts as having parts where two of them are `present` [Q' ids]."""
        parts, things = document["parts"], document["instances"]
        owner = np.array([p["instance"] for p in parts], dtype=np.int64)
        visible = np.isin(np.arange(len(parts)), present)
        counts = np.bincount(owner[visible], minlength=len(things))
        names = [
            f"{things[o]['category']} {p['name']}" if counts[o] > 1 else things[o]["category"]
            for p, o in zip(parts, owner)
        ]
        return PartTruth(tuple(names), owner, tuple(t["category"] for t in things))

    def has_parts(self, thing: int) -> bool:
        return len({self.names[q] for q in np.flatnonzero(self.things == thing)}) > 1


def part_cells(index: LiftingIndex, parts: NDArray[np.integer], n_parts: int, min_alpha: float = 0.5) -> I32:
    """[V, rows, cols] the part with the most weight in each cell; -1 where less than `min_alpha` of it is covered.

    parts [N] in matrix-row order.
    """
    grid = index.grid
    rows = np.repeat(np.arange(len(index)), np.diff(index.indptr))
    known = parts[rows] >= 0
    keys = index.columns[known].astype(np.int64) * n_parts + parts[rows[known]]
    unique, inverse = np.unique(keys, return_inverse=True)
    weight = np.bincount(inverse, weights=index.weights[known])
    column, part = unique // n_parts, unique % n_parts
    covered = np.bincount(column, weights=weight, minlength=index.n_columns) >= min_alpha * grid.cell**2
    order = np.lexsort((part, -weight, column))
    best = order[np.diff(column[order], prepend=-1) > 0]
    out = np.full(index.n_columns, -1, np.int32)
    out[column[best]] = part[best]
    return np.where(covered, out, -1).reshape(index.n_views, grid.rows, grid.cols)


@dataclass(frozen=True, eq=False)
class SimulatedMasks:
    """The store that a field trains from: the real lifting index with simulated masks (`fields.regions.FieldStore`)."""

    index: LiftingIndex
    ids: dict[str, I32]
    offsets: dict[str, I64]
    embeddings: dict[str, F32]

    @property
    def mask_teachers(self) -> dict[str, MaskTeacherAttributes]:
        _, height, width = self.ids[LEVELS[0]].shape
        shapes = {level: (len(e), e.shape[1]) for level, e in self.embeddings.items()}
        return {
            TEACHER: MaskTeacherAttributes(
                spec=TEACHER, fingerprint="", levels=LEVELS, height=height, width=width, embeddings=shapes
            )
        }

    def lifting(self, rows: Any = None) -> LiftingIndex:
        return self.index

    def masks(self, name: str, level: str, views: Any = None) -> I32:
        return self.ids[level]

    def mask_embeddings(self, name: str, level: str) -> tuple[I64, F32]:
        return self.offsets[level], self.embeddings[level]


def simulate_masks(
    index: LiftingIndex, parts: I32, truth: PartTruth, words: WordSpace, faults: Faults, seed: int
) -> SimulatedMasks:
    """Masks for every view. parts: [V, rows, cols] of `part_cells`."""
    rng = np.random.default_rng([seed, 0x6D61736B])
    coarse = rng.random(len(truth.thing_names)) < 0.5
    ids: dict[str, list[I32]] = {level: [] for level in LEVELS}
    vectors: dict[str, list[F32]] = {level: [] for level in LEVELS}
    embedder = _MaskEmbedder(truth, words, faults)
    for picture in parts:
        for level, (found, rows) in zip(LEVELS, _one_view(picture, truth, coarse, embedder, faults, rng)):
            ids[level].append(found)
            vectors[level].append(rows)
    return SimulatedMasks(
        index,
        {level: np.stack(found) for level, found in ids.items()},
        {level: np.cumsum([0, *map(len, rows)], dtype=np.int64) for level, rows in vectors.items()},
        {level: np.concatenate(rows) for level, rows in vectors.items()},
    )


class _MaskEmbedder:
    """Gives masks their vectors."""

    def __init__(self, truth: PartTruth, words: WordSpace, faults: Faults) -> None:
        self.parts = words.encode(list(truth.names))
        self.things = words.encode(list(truth.thing_names))
        self.faults = faults

    def embed(self, vector: F32, cells: int, fragment: bool, rng: np.random.Generator) -> F32:
        """The embedding of a mask of `cells` cells whose name has `vector`."""
        f = self.faults
        if rng.random() < (f.misread_fragment if fragment else f.misread):
            vector = self.things[rng.integers(len(self.things))]
        noise = rng.standard_normal(len(vector))
        length = f.noise + f.small_noise * np.exp(-cells / f.small_cells)
        spoken = vector + length * noise / np.linalg.norm(noise)
        return (spoken / np.linalg.norm(spoken)).astype(np.float32)


def _one_view(
    picture: I32, truth: PartTruth, coarse: NDArray[np.bool_], embedder: _MaskEmbedder, faults: Faults,
    rng: np.random.Generator,
) -> list[tuple[I32, F32]]:  # fmt: skip
    """Per level: ids [rows, cols] and embeddings of one view."""
    things = np.where(picture >= 0, truth.things[picture], -1)
    ids = [np.full(picture.shape, -1, np.int32) for _ in LEVELS]
    vectors: list[list[F32]] = [[] for _ in LEVELS]

    def add(level: int, where: NDArray[np.bool_], vector: F32, fragment: bool = False) -> None:
        ids[level][where] = len(vectors[level])
        vectors[level].append(embedder.embed(vector, int(where.sum()), fragment, rng))

    def add_parts(level: int, inside: NDArray[np.bool_]) -> None:
        for part in np.unique(picture[inside]):
            add(level, inside & (picture == part), embedder.parts[part])

    def add_fragments(level: int, inside: NDArray[np.bool_], cells: float) -> None:
        for part in np.unique(picture[inside]):
            where = inside & (picture == part)
            for piece in fragments(where, cells, rng):
                add(level, piece, embedder.parts[part], fragment=True)

    joint: list[tuple[int, int, int]] = []  # level, thing, how many companions
    for thing in map(int, np.unique(things[things >= 0])):
        inside = things == thing
        if not truth.has_parts(thing):
            add(0, inside, embedder.things[thing])
            add_fragments(1, inside, faults.fragment_cells)
            add_fragments(2, inside, faults.fragment_cells / 2)
        elif bool(coarse[thing]) != (rng.random() < faults.slip):
            joint += [(0, thing, 3), (1, thing, 2)]
            add_parts(2, inside)
        else:
            joint += [(0, thing, 2)]
            add_parts(1, inside)
            add_fragments(2, inside, faults.fragment_cells / 2)
    furniture = np.array(sorted({thing for _, thing, _ in joint}), dtype=np.int64)
    for level, thing, count in joint:  # last, so that they cover what they swallow
        near = nearest_things(things, thing, furniture[furniture != thing])[:NEAR]
        members = np.array([thing, *rng.permutation(near)[:count]])
        mean = embedder.things[members].sum(axis=0)
        add(level, np.isin(things, members), (mean / np.linalg.norm(mean)).astype(np.float32))
    return [_numbered(i, v) for i, v in zip(ids, vectors)]


def _numbered(ids: I32, vectors: list[F32]) -> tuple[I32, F32]:
    """Without the masks that a later one has covered."""
    kept = np.unique(ids[ids >= 0])
    renumber = np.full(len(vectors) + 1, -1, np.int32)
    renumber[kept] = np.arange(len(kept))
    return renumber[ids], np.stack([vectors[k] for k in kept])


def fragments(where: NDArray[np.bool_], cells: float, rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    """`where` cut into pieces of about `cells` cells: those nearest to each of some of its cells, drawn at random."""
    y, x = np.nonzero(where)
    count = max(1, round(len(y) / cells))
    seeds = rng.permutation(len(y))[:count]
    nearest = ((y[:, None] - y[seeds]) ** 2 + (x[:, None] - x[seeds]) ** 2).argmin(axis=1)
    out = []
    for k in range(count):
        piece = np.zeros_like(where)
        piece[y[nearest == k], x[nearest == k]] = True
        out.append(piece)
    return out


def nearest_things(things: NDArray[np.integer], thing: int, others: I64) -> I64:
    """`others` by the distance of their middle from the thing's, in a picture of thing numbers; ties by number."""
    middles = np.array([np.argwhere(things == t).mean(axis=0) for t in (thing, *others)])
    return others[np.argsort(((middles[1:] - middles[0]) ** 2).sum(axis=1), kind="stable")]
