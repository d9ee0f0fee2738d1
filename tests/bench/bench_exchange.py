"""Bytes and fidelity of imported features: a folder in the released layout against the cache that is made of it.

A furnished room of 100,000 Gaussians, of which 85 % have vectors: `lang` of 1152 channels and `dino` of 1024, f16 and
of unit length, as the released Chorus keeps them. The features are synthetic: a random non-linear map of position and
object with a 1/k spectrum and 5 % of the variance as noise, around a common mean as real ones have. Cosines are between
the f16 vectors and ours, in the teacher's own space, and once more without the common mean, which flatters them.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import SceneCache
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.manifest import ManifestRow, path_digest
from chorus_common.scene import GaussianScene
from chorus_common.scene_io import write_npy_folder
from data_manifests.synthetic import RoomOptions, generate_room
from stage1_render_teachers.exchange.import_run import run_import
from stage1_render_teachers.exchange.settings import ImportCalibration, ImportConfig
from stage1_render_teachers.settings import RunConfig
from tests.bench.bench_cache import folder_bytes
from tests.bench.row import Row

COMMAND = "python -m tests.bench exchange"
CHANNELS = {"lang": 1152, "dino": 1024}
GAUSSIANS, SEEN = 100_000, 0.85
F32 = NDArray[np.float32]


def rows() -> list[Row]:
    """Size of the features (in 10^6 bytes), fidelity, and how many rows a second are imported."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "room"
        theirs = write_folder(folder)
        n = len(np.load(folder / "coord.npy"))
        row = ManifestRow("bench", "room", "train", "npy-folder", folder, None, "", n, path_digest(folder))
        config = ImportConfig(calibration=ImportCalibration(scenes=1))
        started = time.perf_counter()
        run_import([row], Path(name) / "store", config, RunConfig(), {})
        seconds = time.perf_counter() - started
        cache = SceneCache.open(Path(name) / "store" / "bench" / "room.zarr")
        ours = folder_bytes(cache.path / "teachers")
        cosines, centred = fidelity(cache, folder, Path(name) / "store")
        vectors = sum(teacher.lifted_rows or 0 for teacher in cache.dense_teachers.values())
    found = [
        ("cache/import-ratio", ours / 1e6, "MB", "f16 features and their index", theirs / 1e6),
        ("cache/import-cosine", float(cosines.mean()), "cosine", "", None),
        ("cache/import-cosine-p01", float(np.quantile(cosines, 0.01)), "cosine", "", None),
        ("cache/import-cosine-centred", float(centred.mean()), "cosine", "", None),
        ("cache/import-speed", vectors / seconds, "vectors per second", "", None),
    ]
    return [
        Row(key, value, unit, value / base if base else value, COMMAND, baseline, base)
        for key, value, unit, baseline, base in found
    ]


def write_folder(folder: Path) -> int:
    """A folder in the released layout; bytes of its features and indices."""
    scene = generate_room(0, RoomOptions(gaussians=GAUSSIANS, views=4)).scene
    write_npy_folder(scene, folder)
    rng = np.random.default_rng(0)
    size = 0
    for seed, (stem, channels) in enumerate(CHANNELS.items()):
        index = np.sort(rng.permutation(len(scene))[: int(SEEN * len(scene))]).astype(np.int32)
        np.save(folder / f"{stem}_feat.npy", features(scene, index, channels, seed))
        np.save(folder / f"{stem}_feat_index.npy", index)
        size += sum((folder / f"{stem}_{kind}.npy").stat().st_size for kind in ("feat", "feat_index"))
    return size


def features(scene: GaussianScene, index: NDArray[np.int32], channels: int, seed: int) -> NDArray[np.float16]:
    """Unit vectors [K, C] f16 of the rows `index`."""
    rng = np.random.default_rng(seed)
    objects = scene.instances if scene.instances is not None else np.zeros(len(scene), np.int32)
    code = rng.normal(size=(int(objects.max()) + 2, 8))
    place = np.concatenate([scene.means / 2, code[objects]], axis=1)[index].astype(np.float32)
    mix = rng.normal(size=(place.shape[1], channels)).astype(np.float32)
    values = np.cos(place @ mix + rng.uniform(0, 2 * np.pi, channels).astype(np.float32))
    values *= np.float32(np.sqrt(2 * 0.95))
    values += rng.standard_normal(values.shape, dtype=np.float32) * np.float32(np.sqrt(0.05))
    spectrum = (np.arange(1, channels + 1) ** -0.5).astype(np.float32)
    values = (values + rng.normal(size=channels).astype(np.float32)) * rng.permutation(spectrum)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def fidelity(cache: SceneCache, folder: Path, store: Path) -> tuple[F32, F32]:
    """Cosines of all vectors of all teachers, with and without the teacher's mean."""
    found: tuple[list[F32], list[F32]] = ([], [])
    place = np.argsort(cache.scene().source_ids)
    for stem in CHANNELS:
        standardiser = PhiSStandardiser.load(store / "standardisers" / f"imported-{stem}.safetensors")
        values, index = (np.load(folder / f"{stem}_{kind}.npy", mmap_mode="r") for kind in ("feat", "feat_index"))
        for begin in range(0, len(index), 1 << 14):
            rows = place[index[begin : begin + (1 << 14)]]
            along = np.argsort(rows)
            ours = standardiser.inverse(cache.lifted_features(f"imported-{stem}", rows[along])[0])
            theirs = np.asarray(values[begin : begin + (1 << 14)][along], np.float32)
            mean = standardiser.mean.astype(np.float32)
            for kept, shift in zip(found, (np.float32(0), mean)):
                kept.append(_cosine(ours - shift, theirs - shift))
    return np.concatenate(found[0]), np.concatenate(found[1])


def _cosine(a: F32, b: F32) -> F32:
    dot, aa, bb = (np.einsum("nc,nc->n", p, q) for p, q in ((a, b), (a, a), (b, b)))
    return dot / np.sqrt(np.maximum(aa * bb, 1e-30))
