"""SceneSplat's folders of Gaussians: geometry and labels, and the labelled points beside them; never lang_feat.

Layout: chorus_common/scene_io/npy_folder.py for the Gaussians; pc_coord, pc_segment*, pc_instance for the points (made
by SceneSplat datasets/preprocessing/adding_pc_label_to_gs_chunk.py). Language features take 1.5 kB per Gaussian and are
not ours: teachers are asked anew.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from chorus_common.scene_io import read_npy_folder
from chorus_common.scene_io.bounds import check_finite, fail
from data_manifests.datasets.arrays import load_array
from data_manifests.datasets.find import Found, find_by_pattern
from data_manifests.datasets.label_files import read_labels
from data_manifests.datasets.raw_scene import LabelledPoints, RawScene, SceneSource
from data_manifests.datasets.settings import SceneSplatFolders


def find_scenesplat(release: SceneSplatFolders, root: Path, wanted: list[str]) -> Found:
    """The scenes of `release` under `root`."""
    found = find_by_pattern(release.scenes, release.split_lists, root, wanted)
    found.scenes = [
        replace(source, files=tuple(f for f in sorted(source.path.glob("*.npy")) if not f.name.startswith("lang_feat")))
        for source in found.scenes
    ]
    return found


def read_scenesplat(source: SceneSource, root: Path, release: SceneSplatFolders, label_spaces: list[str]) -> RawScene:
    """One scene. Raises SceneError, one line, for missing or damaged arrays and labels outside the label spaces."""
    gaussians = read_npy_folder(source.path)
    labels = read_labels(source.path, len(gaussians), label_spaces)
    file = source.path / "pc_coord.npy"
    if not file.is_file():
        return RawScene(gaussians=gaussians, labels=labels)
    coord = load_array(file)
    if coord.ndim != 2 or coord.shape[1] != 3 or coord.dtype.kind != "f" or len(coord) == 0:
        fail(file, f"holds {coord.dtype} of shape {coord.shape}; expected points [M, 3]")
    check_finite(file, points=coord)
    truth = read_labels(source.path, len(coord), label_spaces, "pc_")
    points = LabelledPoints(np.array(coord, np.float32), None, None, truth)
    return RawScene(points, gaussians, labels)
