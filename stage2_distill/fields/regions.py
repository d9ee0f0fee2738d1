"""What supervises a field: per view and cell the mask it lies in at each granularity, and each mask's embedding.

A cell belongs to the mask that fills most of it. Masks are numbered through all levels and views of the scene, so that
a number names one mask of one view at one level: ids of different views mean different masks and are never mixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache.schema import MaskTeacherAttributes
from chorus_common.lifting import CellGrid, LiftingIndex
from chorus_common.runtime.errors import CacheError

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


class FieldStore(Protocol):
    """What a field needs of `chorus_common.cache.SceneCache`."""

    @property
    def mask_teachers(self) -> Mapping[str, MaskTeacherAttributes]: ...
    def lifting(self, rows: Any = None) -> LiftingIndex: ...
    def masks(self, name: str, level: str, views: Any = None) -> I32: ...
    def mask_embeddings(self, name: str, level: str) -> tuple[I64, F32]: ...


@dataclass(frozen=True, eq=False)
class Regions:
    """Masks of a scene, per cell.

    Attributes:
        levels: K names, coarse to fine.
        masks: [V, cells, K] i32, row of `embeddings`, or -1 where the cell has no mask at that level.
        embeddings: [M, E] f32 unit rows, one per mask of any view and level.
    """

    levels: tuple[str, ...]
    masks: I32
    embeddings: F32

    @property
    def complete(self) -> NDArray[np.bool_]:
        """[V, cells] cells with a mask at every level: V of GAGS, the only ones that are supervised."""
        return np.all(self.masks >= 0, axis=2)


def read_regions(
    store: FieldStore, name: str, grid: CellGrid, *, min_share: float = 0.5, borrow: bool = True, scene: str = ""
) -> Regions:
    """The masks of teacher `name` on the cells of `grid`. borrow: see `borrow_levels`.

    Raises CacheError where the teacher is not in the store or has no embeddings.
    """
    if name not in store.mask_teachers:
        known = ", ".join(sorted(store.mask_teachers)) or "none"
        raise CacheError(f"scene {scene}: no mask teacher '{name}'; it has {known}")
    attributes = store.mask_teachers[name]
    if lacking := [level for level in attributes.levels if level not in attributes.embeddings]:
        raise CacheError(
            f"scene {scene}: masks of teacher {name} have no embeddings at level {lacking[0]}; "
            "run stage 1 with a text-aligned teacher beside them"
        )
    per_level, tables, start = [], [], 0
    for level in attributes.levels:
        offsets, embeddings = store.mask_embeddings(name, level)
        cells = np.stack([cell_majority(ids, grid, min_share) for ids in store.masks(name, level)])  # [V, cells]
        if (cells.max(axis=1, initial=-1) >= np.diff(offsets)).any():
            raise CacheError(f"scene {scene}: teacher {name} has masks without embedding at level {level}")
        rows = cells + (start + offsets[:-1, None])
        per_level.append(np.where(cells >= 0, rows, -1).astype(np.int32))
        tables.append(embeddings)
        start += len(embeddings)
    masks = np.stack(per_level, axis=2)
    return Regions(attributes.levels, borrow_levels(masks) if borrow else masks, np.concatenate(tables))


def borrow_levels(masks: I32) -> I32:
    """Where a cell of masks [..., K] (coarse to fine) has none at a level, it takes the mask of the nearest level that
    has one, the finer of two; -1 stays where no level has any.

    A thing that is no part of anything larger is itself the whole, and one without parts its own smallest part. SAM
    reports no mask at such levels.
    """
    levels = masks.shape[-1]
    out = masks.copy()
    for level in range(levels):
        others = sorted((k for k in range(levels) if k != level), key=lambda k: (abs(k - level), -k))
        for other in others:
            out[..., level] = np.where(out[..., level] < 0, masks[..., other], out[..., level])
    return out


def cell_majority(ids: NDArray[np.integer], grid: CellGrid, min_share: float) -> I32:
    """The id [cells] i32 with the most pixels in each cell of a picture of ids [H, W]; ties go to the lower id.

    -1 where no id fills `min_share` of the cell. The picture may have another size than the grid's.
    """
    height, width = ids.shape
    rows = ((np.arange(height) + 0.5) * grid.height / height).astype(np.int64) // grid.cell
    cols = ((np.arange(width) + 0.5) * grid.width / width).astype(np.int64) // grid.cell
    cell = rows[:, None] * grid.cols + cols[None]  # [H, W]
    span = int(ids.max(initial=-1)) + 2
    keys, counts = np.unique(cell * span + (ids + 1), return_counts=True)  # ascending (cell, id)
    owner, found = keys // span, keys % span - 1
    pixels = np.bincount(owner, weights=counts, minlength=grid.cells)
    order = np.lexsort((found, -counts, owner))
    first = np.flatnonzero(np.diff(owner[order], prepend=-1))
    best = order[first]
    out = np.full(grid.cells, -1, np.int32)
    enough = counts[best] >= min_share * pixels[owner[best]]
    out[owner[best]] = np.where(enough, found[best], -1)
    return out


def rows_of_views(names: Sequence[str], wanted: Sequence[str], scene: str = "") -> list[int]:
    """Ascending rows of the views called `wanted`. Raises CacheError for a name that no view has."""
    place = {name: i for i, name in enumerate(names)}
    if missing := [name for name in wanted if name not in place]:
        raise CacheError(f"scene {scene}: no view '{missing[0]}'; views are {names[0]} to {names[-1]}")
    return sorted({place[name] for name in wanted})
