"""Bytes of one scene's store, and what quantising costs a lifted feature.

A furnished room of 500,000 Gaussians, 100 views of 640x480 in cells of 16 px, three teachers of 768, 768 and 256
channels. Teacher features are synthetic: a random non-linear map of position and object, seen through the rasteriser,
30 % of the variance as noise of each view, and a 1/k spectrum. Fidelity is the cosine between features lifted through
the store and features lifted in fp32 through the exact index, after standardisation (without the mean, which would
flatter it).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import GridAttributes, SceneCache, SceneCacheWriter, SceneHeader
from chorus_common.cache.prune import DROPPED_SHARE
from chorus_common.features.quantise import Bits
from chorus_common.features.standardise import Moments, phi_s
from chorus_common.lifting import CellGrid, LiftingIndex
from chorus_common.rasterize import get_backend
from chorus_common.scene import GaussianScene
from data_manifests.synthetic import RoomOptions, SyntheticRoom, generate_room
from tests.bench.row import Row

COMMAND = "python -m tests.bench.bench_cache"
CHANNELS = {"a": 768, "b": 768, "c": 256}
GRID = CellGrid(640, 480, 16)
BITS: Bits = "ecsq"
#: What the table of docs/design/cache.md goes through.
ALL_BITS: tuple[Bits, ...] = ("fp16", 8, 4, "ecsq", 3, 2)
CELLS, SHARES = (16, 10, 8), (0.0, 0.01, 0.02, 0.05)
F32 = NDArray[np.float32]


def rows(bits: Bits = BITS) -> list[Row]:
    """Size of the whole store (in 10^6 bytes), and mean, first percentile and share above 0.98 of the lifted cosine."""
    room, index = make_room()
    with tempfile.TemporaryDirectory() as folder:
        cosines, raw, cache = store_and_compare(Path(folder) / "room.zarr", room, index, bits)
        size = folder_bytes(cache.path)
    found = [
        ("cache/mb-per-scene", size / 1e6, "MB", "fp16 features and plain CSR", raw / 1e6),
        ("cache/lifted-cosine", float(cosines.mean()), "cosine", "", None),
        ("cache/lifted-cosine-p01", float(np.quantile(cosines, 0.01)), "cosine", "", None),
        ("cache/lifted-above-0.98", float((cosines > 0.98).mean()), "share", "", None),
    ]
    return [
        Row(name, value, unit, value / base if base else value, COMMAND, baseline, base)
        for name, value, unit, baseline, base in found
    ]


def make_room(grid: CellGrid = GRID) -> tuple[SyntheticRoom, LiftingIndex]:
    room = generate_room(0, RoomOptions(gaussians=500_000, views=100, width=grid.width, height=grid.height))
    backend = get_backend("cpu")
    hits = []
    for view, k in zip(room.cameras.viewmats, room.cameras.intrinsics):
        found = backend.render(room.scene, view, k, grid.width, grid.height, grid=grid).hits
        assert found is not None
        hits.append(found)
    return room, LiftingIndex.build(hits, room.scene.means, grid)


def store_and_compare(
    path: Path, room: SyntheticRoom, index: LiftingIndex, bits: Bits, dropped: float = DROPPED_SHARE
) -> tuple[F32, int, SceneCache]:
    """Cosines over teachers and Gaussians with visibility, bytes without any of our encoding, and the store."""
    views = len(room.cameras)
    grid = GridAttributes(width=index.grid.width, height=index.grid.height, cell=index.grid.cell)
    raw = len(index.columns) * 8 + len(index) * (56 + 16 + 8)
    with SceneCacheWriter(path, SceneHeader(scene_id="room", fingerprint="bench", grid=grid)) as writer:
        writer.put_gaussians(room.scene, index.order)
        writer.put_cameras(room.cameras)
        writer.put_lifting(index, dropped_share=dropped)
        writer.put_visibility(*index.visibility())
        for name, x in teachers(room.scene, index):
            teacher = writer.add_dense_teacher(
                name, spec=name, fingerprint=name, channels=x.shape[1], standardiser="bench", bits=bits
            )
            teacher.append(x.reshape(views, index.grid.rows, index.grid.cols, -1))
            raw += x.size * 2
        writer.publish()
    cache = SceneCache.open(path)
    stored = cache.lifting()
    cosines = []
    for name, x in teachers(room.scene, index):  # made again rather than kept: together they take 860 MB
        y = cache.features(name).reshape(len(x), -1)
        for begin in range(0, len(index), 1 << 16):
            part = slice(begin, begin + (1 << 16))
            exact, weight = index.lift(x, rows=part)
            cosines.append(_cosine(exact, stored.lift(y, rows=part)[0])[weight > 0])
    return np.concatenate(cosines), raw, cache


def teachers(scene: GaussianScene, index: LiftingIndex) -> Iterator[tuple[str, F32]]:
    """Name and standardised features [V * cells, C] of each teacher."""
    objects = scene.instances if scene.instances is not None else np.zeros(len(scene), np.int32)
    for seed, (name, channels) in enumerate(CHANNELS.items()):
        rng = np.random.default_rng(seed)
        object_code = rng.normal(size=(int(objects.max()) + 2, 8))
        place = np.concatenate([scene.means / 2, object_code[objects]], axis=1)[index.order].astype(np.float32)
        seen, _ = index.render(place)
        mix = rng.normal(size=(seen.shape[1], channels)).astype(np.float32)
        features = np.cos(seen @ mix + rng.uniform(0, 2 * np.pi, channels).astype(np.float32))
        features = features * np.float32(np.sqrt(2 * 0.7))
        features += rng.standard_normal(features.shape, dtype=np.float32) * np.float32(np.sqrt(0.3))
        features *= (np.arange(1, channels + 1) ** -0.5).astype(np.float32)
        yield name, phi_s(Moments.of(features[::7])).forward(features)


def folder_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _cosine(a: F32, b: F32) -> F32:
    dot, aa, bb = (np.einsum("nc,nc->n", p, q) for p, q in ((a, b), (a, a), (b, b)))
    return dot / np.sqrt(np.maximum(aa * bb, 1e-30))


def main() -> None:
    """Print the table of docs/design/cache.md: bits at the usual cell and pruning, each of these at the usual bits."""
    columns = "bits, cell, left out, store MB, teachers, index, per token, lifted: mean, percentile 1, above 0.98"
    print(f"| {columns.replace(', ', ' | ')} |\n|{'---|' * len(columns.split(', '))}")
    for cell in CELLS:
        room, index = make_room(CellGrid(GRID.width, GRID.height, cell))
        settings = [(bits, DROPPED_SHARE) for bits in (ALL_BITS if cell == GRID.cell else (BITS,))]
        settings += [(BITS, share) for share in SHARES if cell == GRID.cell and share != DROPPED_SHARE]
        for bits, dropped in settings:
            with tempfile.TemporaryDirectory() as folder:
                cosines, _, cache = store_and_compare(Path(folder) / "room.zarr", room, index, bits, dropped)
                size = [
                    folder_bytes(path) / 1e6 for path in (cache.path, cache.path / "teachers", cache.path / "lifting")
                ]
                token = np.mean([teacher.token_cosine_mean for teacher in cache.dense_teachers.values()])
            low, share = np.quantile(cosines, 0.01), (cosines > 0.98).mean()
            print(
                f"| {bits} | {cell} | {dropped:.0%} | {size[0]:.1f} | {size[1]:.1f} | {size[2]:.1f} | {token:.4f} | "
                f"{cosines.mean():.5f} | {low:.4f} | {share:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
