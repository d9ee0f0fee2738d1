"""The parts of the check in the order in which they run, and the time that each may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from tests.gpu_check.context import Context


@dataclass(frozen=True)
class Part:
    """seconds: after which it is stopped. gsplat: needs gsplat's extension, which is compiled meanwhile."""

    name: str
    seconds: int
    gsplat: bool = False

    @property
    def run(self) -> Callable[[Context], None]:
        """The function in the part's module."""
        return import_module(f"tests.gpu_check.{self.name}").run  # type: ignore[no-any-return]


PARTS = (
    Part("encoder_parity", 60),
    Part("step_parity", 50),
    Part("encoder_table", 90),
    Part("official", 50),
    Part("tiles", 30),
    Part("training", 60),
    Part("raster_parity", 60, gsplat=True),
    Part("marked_tests", 90, gsplat=True),
    Part("views", 90, gsplat=True),
    Part("kernel", 30, gsplat=True),
)
