"""Small stores with cameras, pictures and depth that pretraining takes, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet, look_at, pinhole
from chorus_common.runtime.config import load_config
from chorus_common.scene import GaussianScene
from stage2_distill.data.targets import ByteBudget
from stage2_distill.gaussiancross.data import CaptureScene
from stage2_distill.gaussiancross.scenes import CaptureScenes
from stage2_distill.gaussiancross.settings import GaussianCrossConfig
from stage2_distill.gaussiancross.views import SceneViews
from tests.stage2.store_fakes import random_scene

WIDTH, HEIGHT, CELL, CHANNELS = 32, 24, 8, 5
SETTINGS = (
    "epochs=3", "batch_size=2", "threads=1", "checkpoint_every=2", "projector_hidden=8",
    "encoder.overrides={enc_channels=[8, 16], enc_depths=[1, 1], dec_channels=[8], enc_num_head=[1, 2], "
    'dec_num_head=[1], norm="batch", drop_path=0.1, inputs={grid_size=0.2, features=["coord", "color"]}}',
    "head.grid=[8, 8, 8]", "head.width=8", "head.features=4", "head.blocks=1", "head.max_gaussians=300",
    "data.views=2", "data.workers=0", "optim.lr=0.01", "optim.ema=0.5",
)  # fmt: skip


class PictureStore:
    """What `SceneCache` offers pretraining."""

    def __init__(self, seed: int, views: int = 4, *, depth: bool = True) -> None:
        rng = np.random.default_rng(seed)
        self._scene = random_scene(rng, 300, f"room{seed}")
        eyes = [np.array([1 + 3.5 * np.cos(a), 1 + 3.5 * np.sin(a), 1.6]) for a in 2 * np.pi * np.arange(views) / views]
        self._cameras = CameraSet(
            np.stack([look_at(eye, np.ones(3)) for eye in eyes]),
            np.tile(pinhole(WIDTH, HEIGHT, 60), (views, 1, 1)),
            WIDTH, HEIGHT, tuple(f"{i:06d}" for i in range(views)),
        )  # fmt: skip
        self._rgb = rng.integers(0, 256, (views, HEIGHT, WIDTH, 3), dtype=np.uint8)
        self._depth = rng.uniform(2, 4, (views, HEIGHT, WIDTH)).astype(np.float32)
        cells = (views, HEIGHT // CELL, WIDTH // CELL, CHANNELS)
        # what all cells share can be learnt in a few steps
        common = np.random.default_rng(99).standard_normal(CHANNELS)
        self._features = (common + 0.3 * rng.standard_normal(cells)).astype(np.float32)
        size = (HEIGHT, WIDTH)
        grid = SimpleNamespace(width=WIDTH, height=HEIGHT, cell=CELL)
        self.attributes = SimpleNamespace(grid=grid, rgb=size, depth=size if depth else None)
        self.dense_teachers = ("text",)

    def scene(self) -> GaussianScene:
        return self._scene

    def cameras(self) -> CameraSet:
        return self._cameras

    def features(self, name: str, views: Sequence[int]) -> NDArray[np.float32]:
        return self._features[list(views)]

    def rgb(self, views: Sequence[int]) -> NDArray[np.uint8]:
        return self._rgb[list(views)]

    def depth(self, views: Sequence[int]) -> NDArray[np.float32]:
        return self._depth[list(views)]


def make_config(*settings: str) -> GaussianCrossConfig:
    return load_config(GaussianCrossConfig, None, [*SETTINGS, *settings])


def make_scenes(count: int = 4, **store: Any) -> list[CaptureScene]:
    scenes = []
    for seed in range(count):
        own = PictureStore(seed, **store)
        views = SceneViews(own, f"made/room{seed}", ("text",), 2, None, ByteBudget(1 << 20), depth_unit=1e-3)
        scenes.append(CaptureScene("made", own.scene(), views))
    return scenes


def make_capture_scenes(scenes: list[CaptureScene] | None = None) -> CaptureScenes:
    return CaptureScenes(make_scenes() if scenes is None else scenes, {"text": CHANNELS}, {"scenes": "made"})
