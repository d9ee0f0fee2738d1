"""What `photo_agreement` is worth where photographs and splat disagree.

A furnished room of 40,000 Gaussians, 48 views of 320x240. Its photographs are renders that a camera has darkened to
0.8 and roughened by noise of 0.02. In every second one the largest piece of furniture is gone: it was moved while the
room was photographed, and the splat has it. The teacher is `embedded:text`. A Gaussian's lifted feature is compared
with the one from undisturbed photographs of all views, standardised, by cosine: once for the Gaussians of the moved
piece, once for all others.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chorus_common.cache import SceneCache
from chorus_common.camera_io import write_transforms_json
from chorus_common.manifest import ManifestRow, path_digest
from chorus_common.rasterize import get_backend
from chorus_common.scene_io import write_npy_folder
from data_manifests.synthetic import RoomOptions, SyntheticRoom, generate_room
from stage1_render_teachers.run import run_stage1
from stage1_render_teachers.settings import CalibrationConfig, RunConfig, Stage1Config
from tests.bench.row import Row

COMMAND = "python -m tests.bench pictures"
WIDTH, HEIGHT, VIEWS = 320, 240, 48
TAUS = (0.2, 0.1, 0.05)
STRUCTURE = ("wall", "floor", "ceiling", "door", "window")
F32 = NDArray[np.float32]
Bool = NDArray[np.bool_]


def rows() -> list[Row]:
    """Mean cosine of the moved piece's Gaussians and of the others, by tau; the baseline is tau = 0."""
    room = generate_room(3, RoomOptions(gaussians=40_000, views=VIEWS, width=WIDTH, height=HEIGHT))
    moved = largest_piece(room)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        truth = lifted(room, where / "still", np.zeros_like(moved), 0.0)
        found = {tau: lifted(room, where / f"moved-{tau}", moved, tau) for tau in (0.0, *TAUS)}
    seen = truth[1] & np.logical_and.reduce([known for _, known in found.values()])

    def cosine(tau: float, part: Bool) -> float:
        a, b = truth[0][seen & part], found[tau][0][seen & part]
        return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())

    made = []
    for name, part in (("moved", moved), ("others", ~moved)):
        base = cosine(0.0, part)
        for tau in TAUS:
            value = cosine(tau, part)
            made.append(
                Row(f"pictures/{name}-tau-{tau}", value, "cosine", value / base, COMMAND, "photo_agreement = 0", base)
            )
    return made


def largest_piece(room: SyntheticRoom) -> Bool:
    """Which Gaussians [N] belong to the furniture with most of them."""
    assert room.scene.instances is not None
    sizes = np.bincount(room.scene.instances[room.scene.instances >= 0])
    for info in room.instances:
        if info.category in STRUCTURE:
            sizes[info.id] = 0
    return room.scene.instances == int(np.argmax(sizes))


def lifted(room: SyntheticRoom, folder: Path, moved: Bool, tau: float) -> tuple[F32, Bool]:
    """Standardised lifted features [N, C] in file order, and which Gaussians are seen."""
    write_npy_folder(room.scene, folder / "room")
    cameras = write_transforms_json(room.cameras, folder / "capture" / "transforms.json")
    rng, draw = np.random.default_rng(0), get_backend("cpu").render
    without = room.scene.select(~moved)
    for view, name in enumerate(room.cameras.names):
        scene = without if view % 2 else room.scene
        picture = draw(scene, room.cameras.viewmats[view], room.cameras.intrinsics[view], WIDTH, HEIGHT).color
        taken = np.clip(0.8 * picture + rng.normal(0, 0.02, picture.shape), 0, 1)
        path = folder / "capture" / "images" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.rint(255 * taken).astype(np.uint8)).save(path)
    row = ManifestRow(
        "bench", "room", "train", "npy-folder", folder / "room", cameras, "", len(room.scene),
        path_digest(folder / "room"),
    )  # fmt: skip
    config = Stage1Config(
        teachers=("embedded:text",), width=WIDTH, height=HEIGHT, pictures="photos", photo_agreement=tau, bits=8,
        calibration=CalibrationConfig(scenes=1, views=8),
    )  # fmt: skip
    store = folder.parent / "store" / folder.name
    standardisers = folder.parent / "store" / "still" / "standardisers"
    if standardisers.is_dir():  # one space for all runs
        (store / "standardisers").mkdir(parents=True)
        for file in standardisers.iterdir():
            (store / "standardisers" / file.name).write_bytes(file.read_bytes())
    summary = run_stage1([row], store, config, RunConfig())
    assert not summary.failures, summary.failures
    cache = SceneCache.open(store / "bench" / "room.zarr")
    index, cells = cache.lifting(), cache.features("embedded-text")
    sums, weight = index.lift(cells.reshape(-1, cells.shape[-1]))  # [V * cells, C]
    values, known = np.zeros((len(room.scene), sums.shape[1]), np.float32), np.zeros(len(room.scene), np.bool_)
    source = cache.scene().source_ids
    values[source] = sums / np.maximum(weight, 1e-12)[:, None]
    known[source] = weight > 0.05
    return values, known
