"""Names that a package offers without importing the modules they live in (PEP 562).

`import chorus_common` takes milliseconds although some of its names need numba or torch: the module behind a name is
imported when the name is first asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_exports(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package's `__init__`.

    The `__init__` imports the same names under `if TYPE_CHECKING:`, for type checkers and editors, and lists them in
    `__all__`. A name must not be that of a submodule of the package: Python would put the module in its place.

    Args:
        package: `__name__` of the package.
        homes: module -> the names that are taken from it.

    >>> get, names = lazy_exports("chorus_common", {"chorus_common.scene": ("GaussianScene",)})
    >>> get("GaussianScene").__module__
    'chorus_common.scene'
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home_of[name]), name)
        setattr(sys.modules[package], name, value)  # the next access does not come here
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home_of})

    return get, names
