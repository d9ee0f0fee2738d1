"""Rows where masks hold, for all masks of a step at once: on a device the host waits once for how many there are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rows_where(masks: Sequence[Tensor]) -> list[Tensor]:
    """For each mask [N] its true rows [M] i64, ascending."""
    counts = torch.stack([mask.sum() for mask in masks]).tolist() if masks else []
    return [torch.nonzero_static(mask, size=count)[:, 0] for mask, count in zip(masks, counts)]
