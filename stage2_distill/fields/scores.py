"""Answers per Gaussian on disk: numbers for programs, a coloured PLY per query for viewers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.atomic import atomic_path
from chorus_common.scene import GaussianScene
from chorus_common.scene_io import write_scene

F32 = NDArray[np.float32]


def write_scores(scene: GaussianScene, scores: F32, texts: Sequence[str], names: Sequence[str], folder: Path) -> None:
    """`folder`/scores.npz with scores [N, Q] f32, queries [Q] and source_ids [N] (row of each Gaussian in the source
    file), and per query <name>.ply: the scene in its relevancy's colours.

    scene: in the rows of `scores`.
    """
    from matplotlib import colormaps

    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "scores.npz") as temporary, open(temporary, "wb") as handle:
        np.savez(handle, scores=scores, queries=np.array(texts), source_ids=scene.source_ids)
    for i, name in enumerate(names):
        colors = colormaps["turbo"](scores[:, i])[:, :3].astype(np.float32)
        write_scene(replace(scene, colors=colors), folder / f"{name}.ply")
