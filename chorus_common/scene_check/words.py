"""The words that say how a scene is brought in order: auto, off, an axis, a number. They need no settings library: a
manifest is read by programs that only count scenes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

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
