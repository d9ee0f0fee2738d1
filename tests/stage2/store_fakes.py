"""Made-up scene stores in memory, for training code: small rooms whose features follow from colours."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import GridAttributes, SceneCacheWriter, SceneHeader
from chorus_common.cameras import CameraSet, look_at, pinhole
from chorus_common.features.quantise import Bits
from chorus_common.features.standardise import Moments, PhiSStandardiser, phi_s
from chorus_common.lifting import CellGrid, CellHits, LiftingIndex
from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.scene import GaussianScene, canonical_quats
from chorus_common.scene_io import write_npy_folder
from stage2_distill.data.dataset import SceneEntry

GRID = CellGrid(width=64, height=48, cell=8)


@dataclass
class MemoryStore:
    """What `SceneCache` offers training, held in arrays."""

    gaussians: GaussianScene
    index: LiftingIndex
    cells: dict[str, NDArray[np.float32]]
    reads: list[str] = field(default_factory=list)
    mask_ids: dict[str, dict[str, NDArray[np.int32]]] = field(default_factory=dict)
    fingerprint: str = "made-up"

    @property
    def dense_teachers(self) -> dict[str, SimpleNamespace]:
        return {name: SimpleNamespace(lifted_rows=None) for name in self.cells}

    @property
    def n_views(self) -> int:
        return self.index.n_views

    def lifted_features(self, name: str, rows: Any = None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        raise AssertionError(f"{name} has features per view")

    @property
    def mask_teachers(self) -> dict[str, SimpleNamespace]:
        return {name: SimpleNamespace(levels=tuple(levels)) for name, levels in self.mask_ids.items()}

    def masks(self, name: str, level: str, views: Any = None) -> NDArray[np.int32]:
        ids = self.mask_ids[name][level]
        return ids if views is None else ids[np.asarray(views)]

    def scene(self) -> GaussianScene:
        return self.gaussians

    def lifting(self, rows: slice | NDArray[np.integer] | None = None) -> LiftingIndex:
        if rows is None or isinstance(rows, slice):
            a, b, _ = (rows or slice(None)).indices(len(self.index))
            return self.index.row_slice(a, b)
        entries = [np.arange(self.index.indptr[r], self.index.indptr[r + 1]) for r in rows]
        flat = np.concatenate([*entries, np.zeros(0, np.int64)]).astype(np.int64)
        indptr = np.cumsum([0] + [len(e) for e in entries])
        order, columns, weights = self.index.order[rows], self.index.columns[flat], self.index.weights[flat]
        return LiftingIndex(order, indptr, columns, weights, self.index.grid, self.index.n_views)

    def features(self, name: str, views: Any = None) -> NDArray[np.float32]:
        self.reads.append(name)
        return self.cells[name] if views is None else self.cells[name][np.asarray(views)]

    def visibility(self) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        return self.index.visibility()


def random_scene(rng: np.random.Generator, n: int, name: str = "room", side: float = 2.0) -> GaussianScene:
    """Gaussians of a few colours in a box of `side` metres."""
    palette = rng.random((5, 3))
    kind = rng.integers(5, size=n)
    return GaussianScene(
        means=(rng.random((n, 3)) * side).astype(np.float32),
        quats=canonical_quats(rng.standard_normal((n, 4))),
        scales=np.exp(rng.uniform(-4, -2, (n, 3))).astype(np.float32),
        opacities=rng.uniform(0.1, 0.9, n).astype(np.float32),
        colors=np.clip(palette[kind] + rng.normal(0, 0.03, (n, 3)), 0, 1).astype(np.float32),
        labels=kind.astype(np.int32),
        name=name,
    )


def make_store(
    rng: np.random.Generator, n: int = 400, views: int = 4, teachers: dict[str, int] | None = None, name: str = "room"
) -> MemoryStore:
    """A store of `n` Gaussians, each hit by a few cells of most views; features follow colours."""
    scene = random_scene(rng, n, name)
    hits = []
    for _ in range(views):
        seen = np.flatnonzero(rng.random(n) < 0.7)
        pairs = np.unique(np.stack([rng.integers(GRID.cells, size=3 * len(seen)), np.repeat(seen, 3)], 1), axis=0)
        hits.append(
            CellHits(
                pairs[:, 0].astype(np.int32),
                pairs[:, 1].astype(np.int32),
                rng.uniform(0.1, 2, len(pairs)).astype(np.float32),
            )
        )
    index = LiftingIndex.build(hits, scene.means, GRID)
    ordered = scene.select(index.order)
    seen_colors = index.render(ordered.colors)[0]  # [V * cells, 3]
    cells = {}
    for teacher, channels in (teachers or {"text": 8, "dense": 12}).items():
        mix = np.random.default_rng(channels).standard_normal((3, channels))
        flat = np.tanh((seen_colors - 0.5) @ mix * 3)
        flat = flat + 0.01 * rng.standard_normal(flat.shape)
        cells[teacher] = flat.astype(np.float32).reshape(views, GRID.rows, GRID.cols, channels)
    return MemoryStore(ordered, index, cells)


def add_masks(entries: list[SceneEntry], levels: tuple[str, ...] = ("whole", "part")) -> list[SceneEntry]:
    """Give every store a mask teacher "sam": mask = the brightest of so many bands of what the view shows."""
    for entry in entries:
        store = entry.store
        assert isinstance(store, MemoryStore)
        seen = store.index.render(store.gaussians.colors)[0].mean(1)
        shape = (store.index.n_views, GRID.rows, GRID.cols)
        for place, level in enumerate(levels):
            band = np.clip((seen * (3 + 3 * place)).astype(np.int32), 0, None).reshape(shape)
            ids = band.repeat(GRID.cell, axis=1).repeat(GRID.cell, axis=2)
            ids[:, ::7, ::5] = -1
            store.mask_ids.setdefault("sam", {})[level] = ids
    return entries


def make_standardisers(entries: list[SceneEntry]) -> dict[str, PhiSStandardiser]:
    """A standardiser per teacher (the stores' features count as already standardised; only widths and fingerprints
    matter)."""
    standardisers = {}
    for name in sorted({n for e in entries for n in e.store.dense_teachers}):
        tokens = np.concatenate(
            [
                e.store.features(name).reshape(-1, e.store.features(name).shape[-1])
                for e in entries
                if name in e.store.dense_teachers
            ]
        )
        standardisers[name] = phi_s(Moments.of(tokens), spec=f"made-up:{name}")
    return standardisers


def make_entries(seed: int = 0, scenes: int = 3, **settings: Any) -> list[SceneEntry]:
    """Scene entries of a made-up data set."""
    rng = np.random.default_rng(seed)
    entries = []
    for i in range(scenes):
        name = f"room{i}"
        entries.append(SceneEntry("made-up", name, f"fp{seed}-{i}", make_store(rng, name=name, **settings)))
    return entries


def write_standardisers(folder: Path, standardisers: dict[str, PhiSStandardiser]) -> None:
    """Standardisers as a store keeps them."""
    for name, standardiser in standardisers.items():
        standardiser.save(folder / "standardisers" / f"{name}.safetensors")


def publish_store(
    root: Path, entries: list[SceneEntry], splits: dict[str, str] | None = None, bits: Bits = "fp16"
) -> Path:
    """The made-up entries as a store of stage 1 on disk, and a manifest of them; returns its path."""
    standardisers = make_standardisers(entries)
    write_standardisers(root, standardisers)
    rows = []
    for entry in entries:
        store = entry.store
        assert isinstance(store, MemoryStore)
        source = store.gaussians.select(np.argsort(store.index.order))
        index = store.index
        header = SceneHeader(
            scene_id=entry.scene_id,
            fingerprint=entry.fingerprint,
            grid=GridAttributes(width=index.grid.width, height=index.grid.height, cell=index.grid.cell),
            dataset=entry.dataset,
        )
        with SceneCacheWriter(root / entry.dataset / f"{entry.scene_id}.zarr", header) as writer:
            writer.put_gaussians(source, index.order)
            writer.put_cameras(make_cameras(index.n_views, index.grid))
            writer.put_lifting(index)
            writer.put_visibility(*index.visibility())
            for name, cells in store.cells.items():
                channels = cells.shape[-1]
                standardiser = standardisers[name].fingerprint
                teacher = writer.add_dense_teacher(
                    name, spec=f"made-up:{name}", fingerprint="f", channels=channels, standardiser=standardiser,
                    bits=bits, text_aligned=name == "text",
                )  # fmt: skip
                teacher.append(cells)
            writer.publish()
        folder = root.parent / "scenes" / entry.scene_id
        folder.parent.mkdir(exist_ok=True)
        write_npy_folder(source, folder)
        split = (splits or {}).get(entry.scene_id, "train")
        rows.append(ManifestRow(entry.dataset, entry.scene_id, split, "npy", folder, None, "", len(source), "0" * 64))
    return Manifest(root.parent.resolve(), tuple(rows)).write(root.parent / "manifest.parquet")


def make_cameras(views: int, grid: CellGrid = GRID) -> CameraSet:
    """Cameras around the room; training does not look at them."""
    viewmats = np.stack([look_at(np.array([3.0, i, 1]), np.array([1.0, 1, 1])) for i in range(views)])
    intrinsics = np.stack([pinhole(grid.width, grid.height, 60)] * views)
    return CameraSet(viewmats, intrinsics, grid.width, grid.height, tuple(f"v{i}" for i in range(views)))
