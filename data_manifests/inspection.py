"""What `chorus-data inspect` tells about a scene or a manifest, as plain numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from chorus_common.labels import LABEL_SPACES
from chorus_common.manifest import Manifest
from chorus_common.scene import GaussianScene
from chorus_common.scene_io import MAX_GAUSSIANS, probe, read_scene

_PERCENTILES = (0, 1, 50, 99, 100)


def inspect_path(path: Path, *, max_gaussians: int = MAX_GAUSSIANS, lod: int = 0) -> dict[str, Any]:
    """Report on the scene or manifest at `path`; plain dicts, lists, numbers and strings."""
    if path.is_file() and path.suffix.lower() == ".parquet":
        return _manifest_report(path)
    found = probe(path, lod=lod)
    scene = read_scene(path, max_gaussians=max_gaussians, lod=lod)
    return {"path": str(path), "format": found.format, "render_mode": found.render_mode.value} | scene_report(scene)


def scene_report(scene: GaussianScene) -> dict[str, Any]:
    """Counts, extents in metres, percentiles and the label histogram of `scene`."""
    low, high = scene.means.min(0), scene.means.max(0)
    report: dict[str, Any] = {
        "name": scene.name,
        "n_gaussians": len(scene),
        "bounds_min_m": _numbers(low),
        "bounds_max_m": _numbers(high),
        "extent_m": _numbers(high - low),
        "percentiles": list(_PERCENTILES),
        "scale_m": _numbers(np.percentile(scene.scales, _PERCENTILES)),
        "longest_over_shortest_scale": _numbers(np.percentile(scene.scales.max(1) / scene.scales.min(1), _PERCENTILES)),
        "opacity": _numbers(np.percentile(scene.opacities, _PERCENTILES)),
        "mean_color": _numbers(scene.colors.mean(0)),
        "has": [key for key in ("normals", "labels", "instances", "parts") if getattr(scene, key) is not None],
    }
    if scene.labels is not None:
        names = LABEL_SPACES.get(scene.label_space, ())
        ids, counts = np.unique(scene.labels, return_counts=True)
        report["label_space"] = scene.label_space
        report["labels"] = {
            (names[i] if 0 <= i < len(names) else "unknown" if i < 0 else str(i)): int(count)
            for i, count in zip(ids.tolist(), counts.tolist())
        }
    if scene.instances is not None:
        report["n_instances"] = int(np.count_nonzero(np.unique(scene.instances) >= 0))
    return report


def summary_lines(report: dict[str, Any]) -> list[str]:
    """A report as lines of text, one key a line."""
    width = max(len(key) for key in report)
    lines = []
    for key, value in report.items():
        if isinstance(value, dict):
            text = ", ".join(f"{name} {count}" for name, count in value.items())
        elif isinstance(value, list):
            text = "  ".join(f"{item:.6g}" if isinstance(item, float) else str(item) for item in value)
        else:
            text = str(value)
        lines.append(f"{key:<{width}}  {text}")
    return lines


def _manifest_report(path: Path) -> dict[str, Any]:
    manifest = Manifest.read(path)
    counts = [row.n_gaussians for row in manifest]
    return {
        "path": str(path),
        "format": "manifest",
        "root": str(manifest.root),
        "n_scenes": len(manifest),
        "n_gaussians": sum(counts),
        "gaussians_per_scene": _numbers(np.percentile(counts, _PERCENTILES)) if counts else [],
        "with_cameras": sum(row.cameras_path is not None for row in manifest),
        "missing_scenes": sum(not row.scene_path.exists() for row in manifest),
        "scenes_per_split": dict(sorted(Counter(f"{row.dataset}/{row.split}" for row in manifest).items())),
        "formats": dict(sorted(Counter(row.format for row in manifest).items())),
        "label_spaces": dict(sorted(Counter(row.label_space or "none" for row in manifest).items())),
    }


def _numbers(values: Any) -> list[float]:
    return [float(f"{value:.6g}") for value in np.asarray(values, dtype=np.float64)]
