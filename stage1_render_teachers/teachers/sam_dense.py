"""`sam:ARCHITECTURE:CHECKPOINT`: the image embedding of SAM (256 channels after the neck) as a dense teacher.

SAM's encoder takes one square of 1024 pixels and nothing else, so its tokens are not the grid's cells; each cell gets
the mean of the tokens under it, weighted by area, and tokens of the padding reach no cell. With pictures of 1024 pixels
on their long side and cells of 16, tokens and cells coincide.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from chorus_common.lifting import CellGrid
from stage1_render_teachers.teachers.promptable import TokenModel
from stage1_render_teachers.teachers.protocol import F32, U8, fingerprint_of
from stage1_render_teachers.teachers.sam_model import load_sam

VERSION = 1


class SamDenseTeacher:
    """See the module's docstring and `protocol.DenseTeacher`."""

    text_aligned = False

    def __init__(self, spec: str, model: TokenModel) -> None:
        self.spec = spec
        self._model = model
        self.channels = model.channels
        self.fingerprint = fingerprint_of("sam dense", VERSION, model.weights, model.precision)

    def features(self, images: U8, grid: CellGrid) -> F32:
        """Features [B, rows, cols, 256] f32 of pictures [B, H, W, 3] u8."""
        if not len(images):
            return np.zeros((0, grid.rows, grid.cols, self.channels), dtype=np.float32)
        embedding = self._model.tokens(images)  # [B, C, t, t]
        height, width = self._model.input_size(grid.height, grid.width)
        tokens = embedding.shape[-1]
        token = self._model.side / tokens
        down = token_shares(grid.height, grid.cell, tokens, token * grid.height / height).to(embedding)
        across = token_shares(grid.width, grid.cell, tokens, token * grid.width / width).to(embedding)
        pooled = torch.einsum("rh,bchw,kw->brkc", down, embedding, across)
        return np.ascontiguousarray(pooled.cpu().numpy())


def token_shares(pixels: int, cell: int, tokens: int, token: float) -> Tensor:
    """Shares [cells, tokens] f32 (rows sum to one) of the tokens, `token` pixels long, under the cells of one axis.

    The last cell ends with the picture.
    """
    cells = -(-pixels // cell)
    start = torch.arange(cells, dtype=torch.float64) * cell
    end = (start + cell).clamp(max=pixels)
    edges = torch.arange(tokens + 1, dtype=torch.float64) * token
    overlap = (torch.minimum(edges[1:], end[:, None]) - torch.maximum(edges[:-1], start[:, None])).clamp(min=0)
    # What rounding of the scaled picture leaves over (less than a pixel) would be a share of a padding token.
    overlap[overlap < 1e-6 * token] = 0
    return (overlap / overlap.sum(dim=1, keepdim=True)).float()


def build_sam_dense(argument: str, device: str = "cpu") -> SamDenseTeacher:
    """The teacher of "ARCHITECTURE:CHECKPOINT[@PRECISION]"."""
    return SamDenseTeacher(f"sam:{argument}", load_sam(argument, "sam", device))
