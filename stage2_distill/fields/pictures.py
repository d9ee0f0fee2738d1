"""Pictures of what a field answers: heat over the grey scene."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.rasterize import render_values
from chorus_common.runtime.atomic import atomic_path
from stage2_distill.fields.query import FieldView

F32 = NDArray[np.float32]


def write_picture(
    view: FieldView, scores: F32, viewmat: NDArray[np.floating], intrinsics: NDArray[np.floating], path: Path
) -> None:
    """A PNG of relevancy `scores` [H, W] (NaN: nothing there) seen from a camera.

    Heat begins at one half, where the query is as near as the nearest canonical phrase, and ends at the picture's own
    maximum or at 0.75, whichever is more: a query that nothing answers to stays grey.
    """
    from matplotlib import colormaps, pyplot

    scene = view.cache.scene()
    height, width = scores.shape
    color, _ = render_values(scene, viewmat, intrinsics, width, height, scene.colors)
    grey = (color @ np.array([0.299, 0.587, 0.114], np.float32)).clip(0, 1)[..., None]
    values = np.nan_to_num(scores, nan=0.0)
    top = max(float(values.max()), 0.75)
    heat = np.clip((values - 0.5) / (top - 0.5), 0, 1)
    mix = 0.75 * np.sqrt(heat)[..., None]
    shown = (1 - mix) * (0.25 + 0.6 * grey) + mix * colormaps["turbo"](heat)[..., :3]
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        pyplot.imsave(handle, np.clip(shown, 0, 1), format="png")


def file_names(texts: Sequence[str]) -> list[str]:
    """A distinct file name part for each text: "a red mug" -> "a-red-mug"; equal ones are numbered."""
    names: list[str] = []
    for text in texts:
        name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "query"
        used = sum(1 for other in names if other == name or other.startswith(f"{name}~"))
        names.append(f"{name}~{used + 1}" if used else name)
    return names
