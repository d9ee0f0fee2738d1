"""Official lists of annotated points: their files, and what the points they name say about a scene's Gaussians.

Lists index the benchmark's points (ScanNet: vertices), which are not the Gaussians: a store may have thinned them, or
hold trained Gaussians. An annotated point therefore labels the Gaussian nearest to it, with its own label; where
Gaussians are the points themselves, that is the point.
"""

from __future__ import annotations

import importlib
import json
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import GaussianScene
from chorus_common.scene_io import probe
from evaluation.neighbours import nearest_gaussians
from evaluation.point_truth import PointTruth, point_truth
from evaluation.scenes import LoadedScene

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

#: Metres. A point further from every Gaussian labels none: data_manifests.datasets cuts Gaussians at the same distance.
REACH = 0.25


def annotate(scene: LoadedScene, listed: I64, label_space: str, lists: str) -> GaussianScene:
    """The Gaussians of `scene` with the labels and instances of the points `listed`, all other labels -1.

    lists: the file of the lists, for messages. Raises ConfigError, one line, where an index is no point of the scene,
    or the scene does not say what its benchmark's points are.
    """
    gaussians = scene.gaussians
    source = scene.where.source
    cloud = point_truth(scene, label_space)
    if cloud is None and isinstance(source, Path) and not source.is_dir() and probe(source).format.startswith("point-"):
        _check_range(listed, int(gaussians.source_ids.max()) + 1, scene.name, lists)
        assert gaussians.labels is not None, "only labelled scenes are limited"
        kept = np.isin(gaussians.source_ids, listed)
        return replace(gaussians, labels=np.where(kept, gaussians.labels, -1).astype(np.int32))
    if cloud is None or cloud.labels is None:
        raise ConfigError(
            f"{scene.name}: {lists} lists points of the benchmark, and beside {source} lies no pc_coord.npy with "
            f"labels of {label_space}; make the scene with chorus-data prepare, or use limit.points"
        )
    _check_range(listed, len(cloud.coord), scene.name, lists)
    points = listed[cloud.labels[listed] >= 0]
    rows = _nearest(gaussians, cloud, points)
    points, rows = points[rows >= 0], rows[rows >= 0]
    labels = np.full(len(gaussians), -1, dtype=np.int32)
    labels[rows] = cloud.labels[points]
    instances = gaussians.instances
    if instances is not None and cloud.instances is not None:
        instances = instances.copy()
        instances[rows] = cloud.instances[points]
    return replace(gaussians, labels=labels, instances=instances, label_space=label_space)


def _nearest(gaussians: GaussianScene, cloud: PointTruth, points: I64) -> I64:
    """[P] row of the Gaussian that each of `points` labels, or -1: of points that share one, the nearest labels it."""
    rows = nearest_gaussians(gaussians.means, cloud.coord[points], 1)[:, 0].astype(np.int64)
    distance = np.linalg.norm(cloud.coord[points] - gaussians.means[rows], axis=1)
    order = np.lexsort((points, distance, rows))
    first = np.ones(len(order), dtype=bool)
    first[1:] = rows[order][1:] != rows[order][:-1]
    wins = np.zeros(len(order), dtype=bool)
    wins[order] = first
    return np.where(wins & (distance <= REACH), rows, -1)


def _check_range(listed: I64, n: int, who: str, lists: str) -> None:
    if len(listed) and listed.max() >= n:
        raise ConfigError(f"{lists}: scene {who} has an index {int(listed.max())}, the scene {n} points")


def read_point_lists(path: Path) -> dict[str, I64]:
    """Scene id -> indices of a torch-pickled dict (nothing but arrays and numbers is unpickled) or of a JSON object."""
    try:
        content = _read_json(path) if path.suffix == ".json" else _read_torch(path)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"{path}: not readable lists of points ({reason})") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path}: holds no scene -> indices")
    return {str(name): _indices(path, str(name), indices) for name, indices in content.items()}


def _indices(path: Path, name: str, indices: Any) -> I64:
    try:
        values = np.asarray(indices)
    except ValueError:  # a ragged list of lists
        raise ConfigError(f"{path}: scene {name}: expected one list of indices, found lists in a list") from None
    if values.ndim != 1 or (values.size and (values.dtype.kind not in "iu" or values.astype(np.int64).min() < 0)):
        raise ConfigError(f"{path}: scene {name}: expected indices >= 0, found {values.dtype} {values.shape}")
    return values.astype(np.int64)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_torch(path: Path) -> Any:
    # ScanNet's files hold numpy arrays; these constructors make arrays and nothing else. The second names are those
    # that NumPy 1 wrote.
    core = importlib.import_module("numpy._core.multiarray")
    makers = [core._reconstruct, core.scalar]
    older = [(maker, f"numpy.core.multiarray.{maker.__name__}") for maker in makers]
    kinds = {type(np.dtype(kind)) for kind in ("i4", "i8", "u4", "u8")}
    with torch.serialization.safe_globals([*makers, *older, np.ndarray, np.dtype, *kinds]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")  # what it cannot read it refuses anyway
        return torch.load(path, map_location="cpu", weights_only=True)
