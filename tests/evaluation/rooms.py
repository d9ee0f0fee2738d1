"""Tiny labelled rooms in a real store, with a teacher that sees the class of what is in a cell (plus noise)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chorus_common.cache import SceneCacheWriter, SceneHeader
from chorus_common.cache.schema import GridAttributes
from chorus_common.cameras import CameraSet, look_at, pinhole
from chorus_common.features.standardise import Moments, PhiSStandardiser, phi_s
from chorus_common.labels import SCANNET20
from chorus_common.lifting import CellGrid, CellHits, LiftingIndex
from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.scene import GaussianScene
from evaluation.prompts import class_embeddings

TEXT_SPEC = "embedded:text"
GRID = CellGrid(64, 48, 4)
TEACHER = "text"
CLASSES = {name: SCANNET20.index(name) for name in ("floor", "wall", "chair", "table")}


class WordVectors:
    """A text encoder for tests: the normalised sum of one random vector per word."""

    spec, channels, pair = TEXT_SPEC, 32, ""

    def encode(self, texts: list[str]) -> np.ndarray:
        rows = [np.sum([_word(w, self.channels) for w in text.lower().split() or [""]], axis=0) for text in texts]
        table = np.array(rows, dtype=np.float32).reshape(len(texts), self.channels)
        return table / np.linalg.norm(table, axis=1, keepdims=True)


def _word(word: str, channels: int) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(channels)


@dataclass(frozen=True)
class Rooms:
    """Where everything lies. `scenes` are the sources, in source order."""

    store: Path
    manifest: Path
    scenes: dict[str, GaussianScene]


def make_scene(seed: int, n: int = 600, *, labels: bool = True, name: str = "room") -> GaussianScene:
    """A floor, a wall, a chair and a table as boxes of Gaussians in a 3 m room; a tenth of them without a label."""
    rng = np.random.default_rng(seed)
    part = rng.choice(4, n, p=[0.35, 0.25, 0.2, 0.2])
    u = rng.random((n, 3))
    low = (
        np.array([[0, 0, 0], [0, 2.9, 0], [0.5, 1, 0], [1.8, 1.2, 0]])[part] + 0.2 * rng.random(3) * (part > 1)[:, None]
    )
    size = np.array([[3, 3, 0.05], [3, 0.05, 2], [0.6, 0.6, 0.9], [0.9, 0.7, 0.7]])[part]
    truth = np.array(list(CLASSES.values()))[part].astype(np.int32)
    truth[rng.random(n) < 0.1] = -1
    colors = np.array([[0.5, 0.4, 0.3], [0.8, 0.8, 0.8], [0.7, 0.2, 0.2], [0.2, 0.4, 0.7]])[part]
    return GaussianScene(
        means=(low + u * size).astype(np.float32),
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (n, 1)),
        scales=np.full((n, 3), 0.06, np.float32),
        opacities=np.full(n, 0.9, np.float32),
        colors=np.clip(colors + 0.05 * rng.standard_normal((n, 3)), 0, 1).astype(np.float32),
        labels=truth if labels else None,
        name=name,
        label_space="scannet20" if labels else "",
    )


def make_cameras() -> CameraSet:
    """Three views into the room; none sees all of it."""
    eyes = ([0.3, -1.0, 1.6], [2.7, -1.0, 1.4], [1.5, -1.4, 2.4])
    target = np.array([1.5, 1.6, 0.4])
    k = pinhole(GRID.width, GRID.height, 50)
    views = np.stack([look_at(np.array(e), target) for e in eyes])
    return CameraSet(
        views, np.stack([k] * len(eyes)), GRID.width, GRID.height, tuple(f"v{i}" for i in range(len(eyes)))
    )


def make_index(scene: GaussianScene, cameras: CameraSet) -> LiftingIndex:
    """Each Gaussian falls into the cell of its centre with its opacity as weight: no occlusion, but a real sparse
    matrix.
    """
    hits = []
    for view, k in zip(cameras.viewmats, cameras.intrinsics):
        p = scene.means @ view[:3, :3].T + view[:3, 3]
        u, v = (p @ k.T)[:, 0] / p[:, 2], (p @ k.T)[:, 1] / p[:, 2]
        seen = np.flatnonzero((p[:, 2] > 0.1) & (u >= 0) & (u < GRID.width) & (v >= 0) & (v < GRID.height))
        cells = (v[seen] // GRID.cell).astype(np.int32) * GRID.cols + (u[seen] // GRID.cell).astype(np.int32)
        order = np.lexsort((seen, cells))
        hits.append(CellHits(cells[order], seen[order].astype(np.int32), scene.opacities[seen][order]))
    return LiftingIndex.build(hits, scene.means, GRID)


def teacher_cells(scene: GaussianScene, index: LiftingIndex, rng: np.random.Generator) -> np.ndarray:
    """[V, rows, cols, C]: the embedding of the most frequent class in the cell, with noise; the mean embedding where
    empty.
    """
    text = class_embeddings(WordVectors(), SCANNET20)
    labels = scene.labels if scene.labels is not None else make_scene(0, len(scene)).labels
    assert labels is not None
    votes = np.zeros((index.n_views * GRID.cells, len(SCANNET20)))
    rows = np.repeat(index.order, np.diff(index.indptr))
    known = labels[rows] >= 0
    np.add.at(votes, (index.columns[known], labels[rows][known]), index.weights[known])
    cells = np.where(votes.any(axis=1)[:, None], text[votes.argmax(axis=1)], text.mean(axis=0))
    cells = cells + 0.3 / np.sqrt(text.shape[1]) * rng.standard_normal(cells.shape)
    return cells.reshape(index.n_views, GRID.rows, GRID.cols, -1).astype(np.float32)


def make_rooms(
    root: Path, *, train: int = 2, val: int = 2, unlabelled: int = 0, missing: int = 0, n: int = 600
) -> Rooms:
    """A store with `train` + `val` labelled rooms and `unlabelled` more in split val; `missing` are in the manifest
    alone.
    """
    store, rng = root / "store", np.random.default_rng(1)
    names = [("train", f"train_{i}", True) for i in range(train)]
    names += [("val", f"val_{i}", True) for i in range(val)] + [("val", f"zz_{i}", False) for i in range(unlabelled)]
    prepared = []
    for seed, (split, scene_id, labelled) in enumerate(names):
        scene = make_scene(seed, n, labels=labelled, name=scene_id)
        cameras = make_cameras()
        index = make_index(scene, cameras)
        prepared.append((split, scene_id, scene, cameras, index, teacher_cells(scene, index, rng)))
    standardiser = fit_standardiser(np.concatenate([p[-1].reshape(-1, p[-1].shape[-1]) for p in prepared]))
    standardiser.save(store / "standardisers" / f"{TEACHER}.safetensors")
    rows = []
    for split, scene_id, scene, cameras, index, cells in prepared:
        write_scene(store, scene_id, scene, cameras, index, cells, standardiser)
        rows.append((scene_id, split, scene.label_space))
    rows += [(f"missing_{i}", "val", "scannet20") for i in range(missing)]
    manifest = Manifest(
        root,
        tuple(
            ManifestRow("toy", scene_id, split, "npy", root / scene_id, None, space, n, "0" * 64)
            for scene_id, split, space in rows
        ),
    ).write(root / "manifest.parquet")
    return Rooms(store, manifest, {p[1]: p[2] for p in prepared})


def fit_standardiser(tokens: np.ndarray) -> PhiSStandardiser:
    return phi_s(Moments.of(tokens), spec=TEXT_SPEC, teacher_fingerprint="toy")


def write_scene(
    store: Path,
    scene_id: str,
    scene: GaussianScene,
    cameras: CameraSet,
    index: LiftingIndex,
    cells: np.ndarray,
    standardiser: PhiSStandardiser,
) -> Path:
    path = store / "toy" / f"{scene_id}.zarr"
    grid = GridAttributes(width=GRID.width, height=GRID.height, cell=GRID.cell)
    header = SceneHeader(scene_id=scene_id, fingerprint=scene_id, grid=grid, dataset="toy")
    with SceneCacheWriter(path, header) as writer:
        writer.put_gaussians(scene, index.order)
        writer.put_cameras(cameras)
        writer.put_lifting(index)
        weight, n_views = index.visibility()
        writer.put_visibility(weight, n_views)
        writer.put_measures({"covered_by_3_views": float((n_views >= 3).mean())})
        teacher = writer.add_dense_teacher(
            TEACHER, spec=TEXT_SPEC, fingerprint="toy", channels=cells.shape[-1], standardiser=standardiser.fingerprint,
            bits="fp16", text_aligned=True,
        )  # fmt: skip
        teacher.append(standardiser.forward(cells))
        writer.publish()
    return path
