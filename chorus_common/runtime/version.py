"""The version of the installed product."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "chorus3d"


def _installed() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:  # run from a copy of the sources that was never installed
        return "0+unknown"


__version__ = _installed()
