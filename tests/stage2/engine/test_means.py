"""Weighted means of measured numbers."""

from __future__ import annotations

import pytest
import torch

from stage2_distill.engine.means import Means, read_numbers


def test_numbers_are_read_in_their_order() -> None:
    assert read_numbers([torch.tensor(0.5), 2, torch.tensor(3, dtype=torch.int64), 4.0]) == [0.5, 2.0, 3.0, 4.0]
    assert read_numbers([]) == []


def test_a_name_is_averaged_over_what_had_it() -> None:
    """A forward pass whose scenes have no masks measures nothing of them."""
    means = Means()
    means.add("teachers/text", {"cosine": torch.tensor(0.5)}, 1.0, 0.25)
    means.add("teachers/text", {"cosine": 1.0, "masks": torch.tensor(2.0)}, torch.tensor(0.5), 0.5)
    means.add("teachers/text", {"cosine": 9.0, "masks": 9.0}, torch.tensor(0.0))
    assert means.nested() == {"teachers": {"text": {"cosine": pytest.approx(0.75), "masks": pytest.approx(2.0)}}}
    assert means.means(read_numbers(means.numbers)) == means.means()
