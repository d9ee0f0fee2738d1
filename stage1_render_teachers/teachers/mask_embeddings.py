"""One text-aligned unit vector per mask of a view, in two forms.

- pooled: the mean of the teacher's dense tokens under the mask. Costs no pass of the teacher.
- crops: the teacher's vector of a picture of the mask, its surroundings blurred (mask_crops.py). One pass per mask.

GAGS and LangSplat show the teacher a crop on black; black moves the embedding (Split&Splat measures blurred
surroundings 3 points of mIoU above black ones).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.cache.schema import MaskForm
from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import ConfigError
from stage1_render_teachers.teachers.mask_crops import mask_crops
from stage1_render_teachers.teachers.protocol import DenseTeacher, PictureTeacher

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]
#: (picture [H, W, 3], ids [H, W], the teacher's raw tokens [cells, C] of that picture) -> unit vectors [M, C].
Embedder = Callable[[U8, I32, F32], F32]


def mask_embedder(form: MaskForm, teacher: DenseTeacher, grid: CellGrid) -> Embedder:
    """The embedder of one form with one text-aligned teacher. Raises ConfigError where the teacher cannot do it."""
    if form == "pooled":
        return lambda image, ids, tokens: unit_rows(pool_under_masks(ids, tokens, grid))
    if not isinstance(teacher, PictureTeacher):
        raise ConfigError(
            f"teacher '{teacher.spec}' has no vector for a whole picture; embed masks with an open_clip teacher, "
            'or use --set mask_embeddings="pooled"'
        )
    return lambda image, ids, tokens: teacher.picture_embeddings(mask_crops(image, ids, teacher.picture_size))


def cell_of_pixels(grid: CellGrid) -> I32:
    """Index [H, W] i32 of the cell in which each pixel lies."""
    rows, cols = np.arange(grid.height) // grid.cell, np.arange(grid.width) // grid.cell
    return (rows[:, None] * grid.cols + cols[None]).astype(np.int32)


def pool_under_masks(ids: I32, tokens: F32, grid: CellGrid) -> F32:
    """Mean token [M, C] f32 under each mask of ids [H, W] (0..M-1, -1 = none), tokens [cells, C].

    A cell counts by the number of its pixels that the mask covers. Ids without pixels get zeros.
    """
    n_masks = int(ids.max(initial=-1)) + 1
    inside = ids >= 0
    at = ids[inside], cell_of_pixels(grid)[inside]
    weights = sparse.csr_matrix((np.ones(len(at[0])), at), shape=(n_masks, grid.cells))  # pixels per (mask, cell)
    area = np.asarray(weights.sum(axis=1))
    return ((weights @ tokens.astype(np.float64)) / np.maximum(area, 1)).astype(np.float32)


def unit_rows(x: F32) -> F32:
    """Rows of [M, C] scaled to length one; rows of zeros stay."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, np.where(length > 0, length, 1), dtype=np.float32)
