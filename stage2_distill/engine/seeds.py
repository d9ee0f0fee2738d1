"""Seeds of the model's own random draws, as functions of (seed, step): no generator state needs saving."""

from __future__ import annotations

from stage2_distill.data.order import MODEL, generator


def model_seed(seed: int, *key: int) -> int:
    """Seed for torch's generator. By convention key 0 draws the initial weights and key s + 1 is step s."""
    return int(generator(seed, MODEL, *key).integers(2**63 - 1))
