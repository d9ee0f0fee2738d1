"""Random numbers per row of a cloud: SplitMix64 by its published text, and what drop path asks of them."""

from __future__ import annotations

import pytest
import torch

from stage2_distill.encoder.counter_rng import _mix, uniform_rows

MASK = 2**64 - 1


def splitmix64(state: int, n: int) -> list[int]:
    """The generator in Python's integers (Steele et al. 2014, figure 17)."""
    out = []
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out.append(z ^ (z >> 31))
    return out


def test_the_hash_is_splitmix64() -> None:
    # first outputs of seed 1234567, as in the public test vectors of the xoshiro page's reference code
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert splitmix64(1234567, 5) == known
    states = [(1234567 + (k + 1) * 0x9E3779B97F4A7C15) & MASK for k in range(5)]
    signed = torch.tensor([s - 2**64 if s >= 2**63 else s for s in states])
    assert [v % 2**64 for v in _mix(signed).tolist()] == known


def draw(seeds: list[int], sizes: list[int], purpose: int = 0) -> torch.Tensor:
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return uniform_rows(torch.tensor(seeds), batch, torch.tensor(sizes).cumsum(0), purpose)


def test_a_cloud_draws_the_same_in_any_batch() -> None:
    together = draw([7, -3, 2**62], [5, 1, 300])
    assert torch.equal(together[:5], draw([7], [5]))
    assert torch.equal(together[5:6], draw([-3], [1]))
    assert torch.equal(together[6:], draw([2**62], [300]))


@pytest.mark.parametrize("purpose", [0, 1, 77])
def test_numbers_are_uniform_and_unrelated(purpose: int) -> None:
    n = 100_000
    u = draw([11], [n], purpose)
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    counts = torch.histc(u, 20, 0, 1)
    assert float(((counts - n / 20) ** 2 / (n / 20)).sum()) < 50  # chi-square of 19: 99.98 %
    for other in (draw([11], [n], purpose + 1), draw([12], [n], purpose), u.roll(1)):
        assert abs(float(torch.corrcoef(torch.stack([u, other]))[0, 1])) < 0.015  # 4.7 standard errors
