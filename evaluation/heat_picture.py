"""A picture of a query's answer: the scene from where the answer is best seen, and the same with heat over it."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chorus_common.cameras import pinhole
from chorus_common.rasterize import render_values
from chorus_common.runtime.atomic import write_bytes_atomically
from chorus_common.scene import GaussianScene
from evaluation.relevancy import HOT
from evaluation.report.colours import heat as heat_colours
from evaluation.scenes import LoadedScene
from evaluation.start_view import FIELD, start_view

F32 = NDArray[np.float32]

WIDTH, HEIGHT = 640, 480

#: Colours are spread over no smaller range of relevancies, as smaller differences mean nothing.
LEAST_RANGE = 0.02


def heat_range(relevancy: F32) -> tuple[float, float]:
    """The relevancies shown as the coldest and the hottest colour: median to 99.8th percentile.

    Where most of the scene answers, the range begins at one half, so that all of it is hot.
    """
    low, high = np.percentile(relevancy, [50, 99.8])
    low = min(low, HOT)
    return float(low), float(max(high, low + LEAST_RANGE))


def heat_over(picture: F32, alpha: F32, relevancy: F32, low: float, high: float) -> F32:
    """Heat [H, W, 3] over the grey `picture` [H, W, 3] of coverage alpha [H, W, 1]: the stronger the answer [H, W], the
    more heat; low, high: see `heat_range`.
    """
    strength = np.clip((relevancy - low) / (high - low), 0, 1)[..., None]
    grey = picture.mean(axis=-1, keepdims=True)
    mix = (0.35 + 0.5 * strength) * alpha
    return (1 - mix) * (0.25 + 0.6 * grey) + mix * heat_colours(relevancy, low, high)


def write_heat_picture(path: Path, scene: LoadedScene, relevancy: F32, title: str, half: str) -> Path:
    """Write the PNG: colours on the left, heat on the right, with the scale. half: what a relevancy of 0.5 means."""
    gaussians: GaussianScene = scene.gaussians
    hottest = relevancy >= np.quantile(relevancy, 0.99)
    view, intrinsics = start_view(scene, hottest).viewmat, pinhole(WIDTH, HEIGHT, FIELD)
    low, high = heat_range(relevancy)
    values = np.concatenate([gaussians.colors, relevancy[:, None]], axis=1)
    drawn, alpha = render_values(gaussians, view, intrinsics, WIDTH, HEIGHT, values)
    alpha = alpha[..., None]
    picture = drawn[..., :3] + (1 - alpha)
    shown = drawn[..., 3] / np.maximum(alpha[..., 0], 1e-6)
    hot = heat_over(picture, alpha, shown.astype(np.float32), low, high)
    figure = Figure(figsize=(13.2, 5.2), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    axes[0].imshow(np.clip(picture, 0, 1))
    axes[1].imshow(np.clip(hot, 0, 1))
    axes[0].set_title(scene.name)
    axes[1].set_title(title)
    for axis in axes:
        axis.set_axis_off()
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(low, high), "turbo")
    figure.colorbar(scale, ax=axes[1], shrink=0.85, label=f"relevancy (0.5 = {half})")
    buffer = io.BytesIO()
    canvas.print_figure(buffer, format="png", metadata={"Software": None})
    write_bytes_atomically(path, buffer.getvalue())
    return path
