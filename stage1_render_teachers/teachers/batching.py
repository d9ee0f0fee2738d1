"""Batches that halve when memory runs out, so that one setting serves small and large accelerators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from chorus_common.runtime.errors import ConfigError

Result = TypeVar("Result")


class HalvingBatches:
    """Runs a function over slices of its input. A size that did not fit once is not tried again.

    The size is a limit, not a setting of the numbers: with another size, sums may differ in their last bit on a GPU,
    as they do between two GPUs.
    """

    def __init__(self, size: int, what: str) -> None:
        self.size = size
        self._what = what

    def run(self, forward: Callable[[Any], Result], items: Any) -> list[Result]:
        """`forward` of consecutive slices of `items` (anything with a length that can be sliced), in order.

        Raises ConfigError where even one item does not fit.
        """
        results: list[Result] = []
        start = 0
        while start < len(items):
            done, result = self._attempt(forward, items[start : start + self.size])
            if done:
                results.append(result)  # type: ignore[arg-type]
                start += self.size
                continue
            # Outside the handler: there the traceback still holds the tensors that filled the memory.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self.size == 1:
                raise ConfigError(
                    f"{self._what}: out of memory with a single item; use smaller pictures, a smaller model or @bf16"
                )
            self.size = max(1, min(self.size, len(items) - start) // 2)
        return results

    @staticmethod
    def _attempt(forward: Callable[[Any], Result], items: Any) -> tuple[bool, Result | None]:
        try:
            return True, forward(items)
        except (torch.OutOfMemoryError, MemoryError):
            return False, None
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # how torch says it on a CPU
                raise
            return False, None
