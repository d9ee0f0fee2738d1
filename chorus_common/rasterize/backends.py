"""The rasteriser that a name stands for."""

from __future__ import annotations

from collections.abc import Callable

from chorus_common.rasterize.protocol import Rasterizer
from chorus_common.runtime.errors import ConfigError, did_you_mean


def _cpu() -> Rasterizer:
    from chorus_common.rasterize.cpu import CpuRasterizer

    return CpuRasterizer()


def _gsplat() -> Rasterizer:
    from chorus_common.rasterize.gsplat_cuda import GsplatRasterizer

    return GsplatRasterizer()


_BACKENDS: dict[str, Callable[[], Rasterizer]] = {"cpu": _cpu, "gsplat": _gsplat}


def get_backend(name: str) -> Rasterizer:
    """The rasteriser called `name`; ConfigError with the nearest name for any other.

    >>> get_backend("cpus")
    Traceback (most recent call last):
    chorus_common.runtime.errors.ConfigError: rasteriser 'cpus' is unknown, known: cpu, gsplat; did you mean 'cpu'?
    """
    if name not in _BACKENDS:
        hint = did_you_mean(name, _BACKENDS, likeness=0.3)
        raise ConfigError(f"rasteriser {name!r} is unknown, known: {', '.join(_BACKENDS)}{hint}")
    return _BACKENDS[name]()
