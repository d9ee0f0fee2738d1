"""Which scene is drawn when: pure functions of (seed, epoch, index).

Nothing here depends on the number of workers, ranks or on what was drawn before, so that a resumed run, a run with
other workers and a run on another number of processes see the same samples (upstream's worker seeds collide and its
resume forgets the position).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import ConfigError

I64 = NDArray[np.int64]

#: Streams of random numbers that must not overlap: the order of samples, the content of a sample, the model's own draws
#: in a step, the prototypes, the scenes that feature norms are measured on, and the crops that anything is measured on.
ORDER, SAMPLE, MODEL, PROTOTYPES, FEATURE_NORMS, MEASURED = 1, 2, 3, 4, 5, 6


def generator(seed: int, *key: int) -> np.random.Generator:
    """A generator that depends on (seed, key) alone; different keys give independent streams."""
    # the length goes in because a seed sequence ignores zeros at its end: (1,) and (1, 0) would give one stream
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, len(key), *key])))


@dataclass(frozen=True)
class Mixture:
    """How an epoch is put together from several data sets.

    Attributes:
        sizes  scenes per data set, in a fixed order.
        counts samples per data set in one epoch; their sum is a multiple of `batch`.
        batch  samples per optimiser step, over all ranks.
    """

    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    batch: int

    @property
    def samples(self) -> int:
        """Samples per epoch."""
        return sum(self.counts)

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch."""
        return self.samples // self.batch

    def batch_samples(self, seed: int, step: int, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """(epoch, index in it, scene number) of samples first..last-1 of the batch of optimiser step `step`."""
        epoch, place = divmod(step, self.steps)
        order = self.epoch(seed, epoch)
        for index in range(place * self.batch + first, place * self.batch + last):
            yield epoch, index, int(order[index])

    def epoch(self, seed: int, epoch: int) -> I64:
        """Scene numbers [samples] of one epoch; scenes are numbered through the data sets in order.

        Every data set is walked in shuffled rounds that go on across epochs: no scene comes back before all others of
        its data set were seen, also where an epoch holds only a part of them.
        """
        drawn = []
        first = 0
        for number, (size, count) in enumerate(zip(self.sizes, self.counts)):
            position = epoch * count + np.arange(count)
            rounds, place = np.divmod(position, size)
            scenes = np.empty(count, dtype=np.int64)
            for r in np.unique(rounds):
                hit = rounds == r
                scenes[hit] = generator(seed, ORDER, number, int(r)).permutation(size)[place[hit]]
            drawn.append(first + scenes)
            first += size
        mixed = np.concatenate(drawn)
        # a single data set keeps its rounds as drawn, so that even across epochs nothing repeats early
        return (
            mixed
            if len(self.sizes) == 1
            else mixed[generator(seed, ORDER, len(self.sizes), epoch).permutation(len(mixed))]
        )


def mixture(scenes: Mapping[str, int], weights: Mapping[str, float], samples: int, batch: int) -> Mixture:
    """Share `samples` (0 = every scene once) per epoch among data sets in proportion to weight, rounded up to whole
    batches.

    Args:
        scenes:  data set -> number of scenes (> 0), in a fixed order.
        weights: data set -> weight (>= 0); a data set that is not named weighs as much as it has scenes, where none is
            named at all, else 1.

    Raises ConfigError where no data set has a positive weight.
    """
    names: Sequence[str] = list(scenes)
    raw = np.array([weights.get(n, 1.0) if weights else float(scenes[n]) for n in names])
    if not 0 < sum(raw.tolist()) < math.inf:
        raise ConfigError(f"data.weights leaves nothing to draw from {', '.join(names)}; give one a positive weight")
    wanted = samples if samples > 0 else sum(scenes.values())
    total = -(-wanted // batch) * batch
    exact = raw / raw.sum() * total
    counts = np.floor(exact).astype(int)
    for place in np.argsort(-(exact - counts), kind="stable")[: total - counts.sum()]:  # largest remainder
        counts[place] += 1
    kept = [i for i, count in enumerate(counts) if count > 0 or scenes[names[i]] > 0]
    return Mixture(tuple(scenes[names[i]] for i in kept), tuple(int(counts[i]) for i in kept), batch)
