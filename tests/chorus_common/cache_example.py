"""A small scene with everything a store can hold, for the tests of the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chorus_common.cache import GridAttributes, SceneCacheWriter, SceneHeader
from chorus_common.cameras import CameraSet, look_at, pinhole
from chorus_common.lifting import CellGrid, CellHits, LiftingIndex
from chorus_common.scene import GaussianScene, RenderMode, canonical_quats


@dataclass(frozen=True)
class Example:
    """Inputs of one store."""

    scene: GaussianScene
    cameras: CameraSet
    index: LiftingIndex
    features: dict[str, np.ndarray]
    masks: np.ndarray
    rgb: np.ndarray
    depth: np.ndarray


def make_example(seed: int = 0, n: int = 300, views: int = 5, *, source_ids: bool = True) -> Example:
    rng = np.random.default_rng(seed)
    grid = CellGrid(40, 24, 8)
    scene = GaussianScene(
        means=rng.normal(size=(n, 3)).astype(np.float32),
        quats=canonical_quats(rng.normal(size=(n, 4))),
        scales=rng.uniform(0.01, 0.1, (n, 3)).astype(np.float32),
        opacities=rng.uniform(0.1, 0.9, n).astype(np.float32),
        colors=rng.uniform(size=(n, 3)).astype(np.float32),
        normals=None,
        labels=rng.integers(-1, 5, n).astype(np.int32),
        instances=rng.integers(-1, 9, n).astype(np.int32),
        source_ids=rng.permutation(10 * n)[:n].astype(np.int64) if source_ids else None,
        name="Example room", label_space="scannet20", render_mode=RenderMode.ANTIALIASED,
    )  # fmt: skip
    cameras = CameraSet(
        np.stack([look_at(np.array([3.0, i, 1.0]), np.zeros(3)) for i in range(views)]),
        np.stack([pinhole(40, 24, 60)] * views),
        40, 24, tuple(f"view_{i}.png" for i in range(views)),
    )  # fmt: skip
    hits = []
    for _ in range(views):
        pairs = np.unique(rng.integers(0, grid.cells * n, 4 * n))
        cells, ids = np.divmod(pairs, n)
        keep = ids % 7 != 0  # some Gaussians without visibility
        weights = rng.gamma(1.0, 5.0, keep.sum()).astype(np.float32) + np.float32(1e-5)
        hits.append(CellHits(cells[keep].astype(np.int32), ids[keep].astype(np.int32), weights))
    features = {
        "clip": rng.normal(size=(views, grid.rows, grid.cols, 24)),
        "dino": rng.normal(size=(views, grid.rows, grid.cols, 20)),
    }
    return Example(
        scene, cameras, LiftingIndex.build(hits, scene.means, grid),
        {k: v.astype(np.float32) for k, v in features.items()},
        rng.integers(-1, 6, (2, views, 12, 20)), rng.integers(0, 256, (views, 24, 40, 3)).astype(np.uint8),
        rng.uniform(0, 5, (views, 24, 40)).astype(np.float32),
    )  # fmt: skip


def fill(writer: SceneCacheWriter, example: Example, *, batch: int = 2) -> None:
    """Everything but `publish`."""
    views = len(example.cameras)
    writer.put_gaussians(example.scene, example.index.order)
    writer.put_cameras(example.cameras)
    writer.put_lifting(example.index)
    writer.put_visibility(*example.index.visibility())
    for (name, features), bits in zip(example.features.items(), (4, 3)):
        teacher = writer.add_dense_teacher(
            name, spec=f"test:{name}", fingerprint="f" * 8, channels=features.shape[-1], standardiser="b" * 8, bits=bits
        )
        for begin in range(0, views, batch):
            teacher.append(features[begin : begin + batch])
    masks = writer.add_mask_teacher(
        "sam", spec="test:sam", fingerprint="f" * 8, levels=("part", "whole"), height=12, width=20
    )
    for part, whole in zip(*example.masks):
        masks.append({"part": part, "whole": whole})
    masks.put_embeddings("whole", np.arange(views + 1) * 6, np.linspace(-1, 1, 6 * views * 8).reshape(6 * views, 8))
    writer.put_rgb(example.rgb)
    writer.put_depth(iter(np.array_split(example.depth, 2)))


def header(scene_id: str = "room_0") -> SceneHeader:
    return SceneHeader(
        scene_id=scene_id, dataset="test", fingerprint="abc", grid=GridAttributes(width=40, height=24, cell=8)
    )


def write_example(path: Path, example: Example, *, batch: int = 2) -> bool:
    with SceneCacheWriter(path, header()) as writer:
        fill(writer, example, batch=batch)
        return writer.publish()
