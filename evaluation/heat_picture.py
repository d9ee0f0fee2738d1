"""A picture of a query's answer: the scene from where the answer is best seen, and the same with heat over it."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chorus_common.cameras import look_at, pinhole
from chorus_common.rasterize import render_values
from chorus_common.runtime.atomic import write_bytes_atomically
from chorus_common.scene import GaussianScene
from evaluation.report.colours import heat as heat_colours
from evaluation.scenes import LoadedScene

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

WIDTH, HEIGHT = 640, 480
_SMALL = 4  # views are compared at a quarter of the size


def heat_range(relevancy: F32) -> tuple[float, float]:
    """The relevancies shown as the coldest and the hottest colour: median to 99.8th percentile."""
    low, high = np.percentile(relevancy, [50, 99.8])
    return float(low), float(max(high, low + 1e-3))


def best_view(scene: LoadedScene, relevancy: F32) -> tuple[F64, F64]:
    """(world to camera [4, 4], intrinsics [3, 3] of a WIDTH x HEIGHT picture) from which most of the hottest Gaussians
    is seen: of the cache's cameras, or of four inside the upper corners of the scene's box, looking at them.
    """
    gaussians = scene.gaussians
    hottest = relevancy >= np.quantile(relevancy, 0.99)
    if scene.cache is not None:
        cameras = scene.cache.cameras().filled(WIDTH, HEIGHT)
        index = scene.cache.lifting()
        rows = np.repeat(np.arange(len(index)), np.diff(index.indptr))
        seen = np.bincount(
            index.columns // index.grid.cells, weights=index.weights * hottest[rows], minlength=index.n_views
        )
        return cameras.viewmats[int(seen.argmax())], cameras.intrinsics[int(seen.argmax())]
    low, high = np.percentile(gaussians.means, [2, 98], axis=0).astype(np.float64)
    focus = gaussians.means[hottest].mean(axis=0).astype(np.float64)
    small = pinhole(WIDTH // _SMALL, HEIGHT // _SMALL, 75.0)
    best, most = None, -1.0
    for x in (0.08, 0.92):
        for y in (0.08, 0.92):
            view = look_at(low + (high - low) * np.array([x, y, 0.85]), focus)
            drawn, _ = render_values(
                gaussians, view, small, WIDTH // _SMALL, HEIGHT // _SMALL, hottest[:, None].astype(np.float32)
            )
            if drawn.sum() > most:
                best, most = view, float(drawn.sum())
    assert best is not None, "four views were tried"
    return best, pinhole(WIDTH, HEIGHT, 75.0)


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
    view, intrinsics = best_view(scene, relevancy)
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
