"""What a part of the check is given: a device, sizes, time, and a place for its figures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from chorus_common.rasterize import Rasterizer, get_backend

MIB = 2**20


class OutOfTime(Exception):
    """A part's time is over; what it has found so far stays."""


@dataclass
class Context:
    """One part at work.

    Attributes:
        device: "cuda" or "cpu". rehearse: small sizes. file: the part's JSON. until: time.monotonic() at which it ends.
        rows: what was found, one dict per line of a table.
    """

    device: torch.device
    rehearse: bool
    file: Path
    until: float
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def size(self, real: Any, rehearsed: Any) -> Any:
        """`real`, or `rehearsed` in a rehearsal."""
        return rehearsed if self.rehearse else real

    def add(self, **figures: Any) -> None:
        """A row; it is on disk when this returns."""
        self.rows.append(figures)
        self.file.write_text(json.dumps({"rows": self.rows}, indent=1))
        print("  ", " ".join(f"{k}={_short(v)}" for k, v in figures.items()), flush=True)

    def left(self) -> float:
        """Seconds until the part's time is over."""
        return self.until - time.monotonic()

    def check_time(self, needed: float = 0.0) -> None:
        """OutOfTime where less than `needed` seconds are left."""
        if self.left() < needed:
            raise OutOfTime

    def rasterizer(self) -> Rasterizer:
        """gsplat's backend, or the CPU one where there is no card."""
        return get_backend("gsplat" if self.cuda else "cpu")

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], *, repeats: int = 5, most: float = 10.0) -> list[float]:
        """Times of `work`, ascending, after one run that is not counted; fewer than `repeats` after `most` seconds."""
        work()
        self.wait()
        times: list[float] = []
        while len(times) < repeats and (not times or sum(times) < min(most, max(0.0, self.left() - 5))):
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return sorted(times)

    @contextmanager
    def memory(self, into: dict[str, Any]) -> Iterator[None]:
        """Largest memory of the device during the block, beyond what was in use before, as `into["mib"]`."""
        if not self.cuda:
            yield
            into["mib"] = None
            return
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield
        torch.cuda.synchronize()
        into["mib"] = (torch.cuda.max_memory_allocated() - before) / MIB


def median(times: list[float]) -> float:
    """The middle one of sorted times."""
    return times[len(times) // 2]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2 distance, on the CPU in float64."""
    a, b = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
