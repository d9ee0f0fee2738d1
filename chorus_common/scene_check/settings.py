"""How a scene is brought to what encoders expect: z up, metres, no stray Gaussians."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, ValidationError

from chorus_common.runtime.config import Config
from chorus_common.runtime.errors import ConfigError

AUTO, OFF = "auto", "off"
_AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


def parse_up(text: str) -> NDArray[np.float64] | None:
    """The unit vector [3] that "x", "+y", "-z" or "0,-1,0" names; None for "auto" and "off". Raises ValueError."""
    word = text.strip().lower()
    if word in (AUTO, OFF):
        return None
    sign, axis = (-1.0 if word.startswith("-") else 1.0), word.lstrip("+-")
    if axis in _AXES:
        return sign * np.array(_AXES[axis])
    try:
        vector = np.array([float(part) for part in word.split(",")])
    except ValueError:
        vector = np.zeros(0)
    if vector.shape != (3,) or not np.isfinite(vector).all() or np.linalg.norm(vector) == 0:
        raise ValueError(f"'{text}' is no direction; give auto, off, an axis such as z or -y, or three numbers x,y,z")
    return vector / np.linalg.norm(vector)


def parse_number(text: str) -> float | None:
    """A positive number; None for "auto" and "off". Raises ValueError."""
    word = text.strip().lower()
    if word in (AUTO, OFF):
        return None
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"'{text}' is neither auto, off nor a positive number")
    return value


def _up(value: object) -> str:
    parse_up(str(value))
    return str(value).strip().lower()


def _number(value: object) -> str:
    parse_number(str(value))
    return str(value).strip().lower()


class AlignmentSettings(Config):
    """What is done to a scene before it is rendered or encoded."""

    up: Annotated[str, BeforeValidator(_up)] = Field(
        default=AUTO, description="upward direction of the file: auto, off (it is z), an axis such as -y, or x,y,z"
    )
    scale: Annotated[str, BeforeValidator(_number)] = Field(
        default=AUTO, description="metres per unit of the file: auto, off (it is 1), or a number"
    )
    outliers: Annotated[str, BeforeValidator(_number)] = Field(
        default=AUTO,
        description="Gaussians apart from all others: auto, off (keep them), or the distance in metres from which one "
        "lies apart",
    )


def alignment_settings(up: str = AUTO, scale: str = AUTO, outliers: str = AUTO) -> AlignmentSettings:
    """Settings from the words of a command line. Raises ConfigError, one line, for one that means nothing."""
    try:
        return AlignmentSettings(up=up, scale=scale, outliers=outliers)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}") from None
