"""Charts as PNG bytes: training curves, IoU per class, confusion."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#334155",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": "#64748b",
    "ytick.color": "#64748b",
    "legend.frameon": False,
    "text.color": "#1e293b",
}
_COLOURS = ("#2563eb", "#f59e0b", "#10b981", "#e11d48", "#7c3aed", "#0891b2")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Records of a trainer's JSONL log; a torn last line is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def training_curves(records: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Loss per step, and each teacher's cosine in training (line) and validation (dots); None for an empty log."""
    steps = [r for r in records if r.get("kind") == "step" and isinstance(r.get("loss"), int | float)]
    if not steps:
        return None
    with plt.rc_context(_STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
        x, loss = np.array([r["step"] for r in steps]), np.array([float(r["loss"]) for r in steps])
        left.plot(x, loss, color=_COLOURS[0], alpha=0.22, linewidth=0.8)
        left.plot(x, _smooth(loss), color=_COLOURS[0], linewidth=1.8)
        left.set(title="Training loss", xlabel="step", ylim=(0, max(float(np.percentile(loss, 99)) * 1.1, 1e-6)))
        checks = [r for r in records if r.get("kind") == "validation"]
        names = sorted({name for r in steps for name in r.get("teachers", {})})
        for name, colour in zip(names, _cycle(len(names))):
            at, cosine = _series(steps, name)
            right.plot(at, _smooth(cosine), color=colour, linewidth=1.8, label=name)
            at, cosine = _series(checks, name)
            right.plot(at, cosine, "o", color=colour, markersize=4, markeredgecolor="white")
        right.set(title="Cosine to each teacher", xlabel="step" + (" (dots: validation)" if checks else ""))
        if names:
            right.legend(loc="lower right")
        return _png(figure)


def class_bars(rows: Mapping[str, Mapping[str, float | None]]) -> bytes:
    """IoU per class, one bar per row of the table: {row name: {class: IoU, None = not in the ground truth}}."""
    classes = [c for c in next(iter(rows.values())) if any(row.get(c) is not None for row in rows.values())]
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(10, 3.4), layout="constrained")
        width = 0.8 / max(1, len(rows))
        for i, ((name, values), colour) in enumerate(zip(rows.items(), _cycle(len(rows)))):
            x = np.arange(len(classes)) + (i - (len(rows) - 1) / 2) * width
            axes.bar(x, [100 * (values.get(c) or 0) for c in classes], width * 0.92, color=colour, label=name)
        axes.set_xticks(np.arange(len(classes)), classes, rotation=40, ha="right", rotation_mode="anchor")
        axes.grid(axis="x", visible=False)
        axes.set(title="IoU per class", ylabel="%", ylim=(0, 100), xlim=(-0.6, len(classes) - 0.4))
        axes.legend(ncols=len(rows), loc="upper right")
        return _png(figure)


def confusion_picture(title: str, class_names: Sequence[str], counts: NDArray[np.integer]) -> bytes:
    """Share of each true class (row) that was called what (column; last = no prediction). Classes without truth are
    left out.
    """
    present = counts.sum(axis=1) > 0
    used = np.append(present | (counts[:, :-1].sum(axis=0) > 0), counts[:, -1].sum() > 0)
    share = counts[present][:, used] / counts[present].sum(axis=1, keepdims=True)
    rows = [n for n, keep in zip(class_names, present) if keep]
    columns = [n for n, keep in zip([*class_names, "(none)"], used) if keep]
    with plt.rc_context({**_STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(figsize=(0.34 * len(columns) + 2.2, 0.30 * len(rows) + 1.6), layout="constrained")
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(columns)), columns, rotation=50, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows)
        axes.set(title=title, xlabel="predicted", ylabel="truth")
        for i, j in zip(*np.nonzero(share >= 0.05)):
            colour = "white" if share[i, j] > 0.55 else "#334155"
            axes.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=7, color=colour)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return _png(figure)


def picture_png(picture: NDArray[np.floating]) -> bytes:
    """PNG of colours [H, W, 3] in [0, 1]."""
    buffer = io.BytesIO()
    Image.fromarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})  # no version: same data, same bytes
    plt.close(figure)
    return buffer.getvalue()


def _smooth(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Centred moving mean over 1/40 of the curve, shorter windows at the ends."""
    half = max(1, len(values) // 80)
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(0, at - half), np.minimum(len(values), at + half + 1)
    return (total[high] - total[low]) / (high - low)


def _series(records: Sequence[Mapping[str, Any]], teacher: str) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
    pairs = [(r["step"], r["teachers"][teacher].get("cosine")) for r in records if teacher in r.get("teachers", {})]
    pairs = [p for p in pairs if isinstance(p[1], int | float)]
    return np.array([p[0] for p in pairs], dtype=np.int64), np.array([p[1] for p in pairs], dtype=np.float64)


def _cycle(n: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(n)]
