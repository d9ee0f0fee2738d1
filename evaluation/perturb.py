"""A scene as another capture might have it: noisy, sparse or turned. Seeded by the scene, not its place in a list."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.lifting import morton_order
from chorus_common.rotations import middle, rotate, rotation_about
from chorus_common.runtime.progress import progress
from chorus_common.scene import GaussianScene
from chorus_common.scene_io import write_ply
from evaluation.scenes import LoadedScene, Selection

I64 = NDArray[np.int64]
Change = Callable[[GaussianScene, np.random.Generator], tuple[GaussianScene, I64]]


def _noise(scene: GaussianScene, rng: np.random.Generator, *, sigma: float) -> tuple[GaussianScene, I64]:
    """Centres moved by a normal of `sigma` metres per axis, colours by the same number of units."""
    means = scene.means + sigma * rng.standard_normal(scene.means.shape)
    colors = np.clip(scene.colors + sigma * rng.standard_normal(scene.colors.shape), 0, 1)
    return replace(scene, means=means.astype(np.float32), colors=colors.astype(np.float32)), np.arange(len(scene))


def _subsample(scene: GaussianScene, rng: np.random.Generator, *, share: float) -> tuple[GaussianScene, I64]:
    """A random `share` of the Gaussians."""
    kept = np.sort(rng.permutation(len(scene))[: max(1, round(share * len(scene)))])
    return scene.select(kept), kept


def _turn(scene: GaussianScene, rng: np.random.Generator, *, degrees: float) -> tuple[GaussianScene, I64]:
    """Turned about the vertical through the middle: centres, orientations and normals."""
    return rotate(scene, rotation_about("z", np.radians(degrees)), middle(scene)), np.arange(len(scene))


#: name -> change. Noise in metres, subsampling by the share that is kept, rotation in degrees.
PERTURBATIONS: dict[str, Change] = {
    "noise-0.01": partial(_noise, sigma=0.01),
    "noise-0.03": partial(_noise, sigma=0.03),
    "keep-0.5": partial(_subsample, share=0.5),
    "keep-0.2": partial(_subsample, share=0.2),
    "turn-30": partial(_turn, degrees=30.0),
    "turn-90": partial(_turn, degrees=90.0),
    "turn-180": partial(_turn, degrees=180.0),
}


def perturb(scene: LoadedScene, name: str, seed: int) -> tuple[LoadedScene, I64]:
    """(the changed scene, the row of `scene` that each of its Gaussians comes from). "clean" changes nothing.

    The result has no cache, and its rows are numbered anew, in the order in which `export_perturbed` writes them.
    """
    if name == "clean":
        return replace(scene, variant="clean"), np.arange(len(scene.gaussians))
    rng = np.random.default_rng([seed, zlib.crc32(f"{scene.name}:{name}".encode())])
    changed, kept = PERTURBATIONS[name](scene.gaussians, rng)
    order = morton_order(changed.means)
    turned = replace(changed.select(order), source_ids=np.arange(len(order)), source_rows=len(order))
    return LoadedScene(scene.where, turned, None, scene.alignment, variant=name), kept[order]


def export_perturbed(selection: Selection, names: Sequence[str], seed: int, folder: Path) -> None:
    """Write <folder>/<perturbation>/<data set>/<scene id>.ply of every scene and perturbation, for encoders that are
    run elsewhere; their features come back as <perturbation>/<data set>/<scene id>.npy, and as clean/... for the scenes
    as they are.
    """
    with progress(len(selection.scenes) * len(names), "perturbed scenes") as report:
        for where in selection.scenes:
            scene = where.load()
            for name in names:
                changed, _ = perturb(scene, name, seed)
                path = folder / name / where.dataset / f"{where.scene_id}.ply"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_ply(changed.gaussians, path)
                report.advance()
