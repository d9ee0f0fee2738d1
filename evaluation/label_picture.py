"""A picture of a scene's labels: the scene, and the same in the colours of its classes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from chorus_common.cameras import pinhole
from chorus_common.labels import FOREGROUND_EXCLUDED
from chorus_common.rasterize import render_values
from chorus_common.runtime.atomic import write_bytes_atomically
from evaluation.report.colours import class_palette
from evaluation.scenes import LoadedScene
from evaluation.start_view import FIELD, start_view

WIDTH, HEIGHT = 640, 480
#: Classes that the legend names: those with most Gaussians.
NAMED = 12


def write_label_picture(path: Path, scene: LoadedScene, classes: NDArray[np.integer], names: Sequence[str]) -> Path:
    """Write the PNG for classes [N] (-1 = none) of the scene's Gaussians, from where the most frequent class that is no
    wall, floor or ceiling is best seen.
    """
    counts = np.bincount(classes[classes >= 0], minlength=len(names))
    things = counts * np.array([name not in FOREGROUND_EXCLUDED for name in names])
    focus = classes == int(things.argmax()) if things.any() else None
    view, intrinsics = start_view(scene, focus).viewmat, pinhole(WIDTH, HEIGHT, FIELD)
    palette = class_palette(names)
    values = np.concatenate([scene.gaussians.colors, palette[classes]], axis=1)
    drawn, alpha = render_values(scene.gaussians, view, intrinsics, WIDTH, HEIGHT, values)
    background = 1 - alpha[..., None]
    figure = Figure(figsize=(13.2, 5.2), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for axis, colours in zip(axes, (drawn[..., :3], drawn[..., 3:])):
        axis.imshow(np.clip(colours + background, 0, 1))
        axis.set_axis_off()
    axes[0].set_title(scene.name)
    axes[1].set_title("classes")
    most = [int(k) for k in np.argsort(-counts, kind="stable")[:NAMED] if counts[k]]
    if most:
        handles = [Patch(color=palette[k], label=names[k]) for k in most]
        axes[1].legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    buffer = io.BytesIO()
    canvas.print_figure(buffer, format="png", metadata={"Software": None})
    write_bytes_atomically(path, buffer.getvalue())
    return path
