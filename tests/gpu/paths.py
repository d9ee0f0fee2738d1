"""The ways through the product that run on a CUDA device, each once on the pretended one.

`python -m tests.gpu.paths` prints where the host waits for the device, and how often per pass.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from chorus_common.cameras import look_at, pinhole
from chorus_common.lifting import CellGrid
from chorus_common.runtime.config import load_config
from stage2_distill.distill import DistillRecipe
from stage2_distill.encode import encode_scene
from stage2_distill.encoder import PointBatch, build_encoder
from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.recipe import Recipe
from stage2_distill.engine.trainer import Trainer
from stage2_distill.fields import FieldConfig
from stage2_distill.fields.recipe import FieldRecipe
from stage2_distill.fields.regions import read_regions
from stage2_distill.gaussiancross import rendering
from stage2_distill.gaussiancross.recipe import GaussianCrossRecipe
from stage2_distill.settings import AdaptConfig
from tests.gpu.pretended import CudaTensor, Synchronisation, pretended_cuda
from tests.stage1.small_rooms import tiny_scene
from tests.stage2.clouds import cloud
from tests.stage2.fields.field_scene import make_field_index, make_masks
from tests.stage2.gaussiancross.small_captures import make_capture_scenes, make_config, make_scenes
from tests.stage2.store_fakes import add_masks
from tests.stage2.train_child import run_tiny, tiny_config, tiny_data

CUDA = torch.device("cuda", 0)
Waits = Counter[Synchronisation]

#: every loss term, mixed precision, averaged weights, two forward passes per step
EVERYTHING = (
    "amp=bf16", "micro_batch=1", "balance=adaloss",
    "teachers.text.masks.weight=0.1", "teachers.text.masks.cover=0.0", "teachers.dense.labels.weight=0.1",
    "teachers.dense.labels.min_rows=5", "teachers.text.prototypes.weight=1.0", "teachers.text.prototypes.count=8",
    "teachers.text.prototypes.balance=0.5", "teachers.dense.cosine_space=teacher",
    "teachers.dense.smooth_l1_space=teacher",
)  # fmt: skip


def forward(preset: str) -> Waits:
    """One forward pass of an encoder at inference, two clouds: levels and features."""
    channels = (36, 72, 144) if preset == "utonia" else (12, 24, 48)
    encoder = build_encoder(preset, enc_channels=channels).eval()
    batch = PointBatch.concatenate([cloud(200, encoder.config.in_channels, seed) for seed in (1, 2)])
    with pretended_cuda() as device, torch.no_grad():
        encoder.to(CUDA)
        encoder(batch.to(CUDA))  # fills what an encoder keeps
        device.clear()
        assert encoder(batch.to(CUDA)).is_cuda
        return device.waits


def encode() -> Waits:
    """A scene's features, back on the host."""
    encoder = build_encoder("chorus-lite", enc_channels=(12, 24, 48))
    with pretended_cuda() as device:
        encoder.to(CUDA)
        device.clear()
        assert encode_scene(encoder, tiny_scene(3, 120)).device.type == "cpu"
        return device.waits


def train() -> Waits:
    """A step of distillation with every loss term."""
    data = tiny_data()
    add_masks(list(data.scenes))
    return _step(lambda: DistillRecipe(tiny_config(*EVERYTHING), data, CUDA))


def train_plainly() -> Waits:
    """A step of distillation as it is by default: matching alone."""
    return _step(lambda: DistillRecipe(tiny_config(), tiny_data(), CUDA))


def adapt() -> Waits:
    """A step of adaptation: targets in pictures, adapters in the encoder."""
    with TemporaryDirectory() as folder:
        run_tiny(Path(folder), "epochs=1")
        tiny = ("epochs=2", "batch_size=2", "threads=1", "data.cover=0.0", "data.views=2", "lora.rank=2")
        config = load_config(AdaptConfig, None, (*tiny, f"student={folder}"))
        return _step(lambda: DistillRecipe(config, tiny_data(), CUDA))


def field() -> Waits:
    """A late step of a field, when all its terms count."""
    late = {"select_from": 0.0, "regulation_from": 0.0}
    config = FieldConfig(decoder_width=32, decoder_layers=3, iterations=2, min_alpha=0.01, **late)
    index = make_field_index()
    regions = read_regions(make_masks(index), "masks", index.grid)
    return _step(lambda: FieldRecipe(config, index, regions, range(index.n_views), device=CUDA))


def pretrain() -> Waits:
    """A step of GaussianCross; in the place of gsplat one colour over the picture, with gradients for all."""

    def plain(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, values: Tensor, *camera: Any) -> Any:
        viewmat, intrinsics, width, height = camera
        assert viewmat.is_cuda
        assert intrinsics.is_cuda
        weight = opacities.mean() + 0 * (quats.sum() + scales.sum())
        depth = means[:, 2].mean().expand(height, width)
        return values.mean(0).expand(height, width, -1) * weight, depth, weight.expand(height, width)

    with patch.dict(rendering._BACKENDS, {"gsplat": plain}):
        return _step(lambda: GaussianCrossRecipe(make_config(), make_capture_scenes(make_scenes()), CUDA))


def rasterise() -> Waits:
    """A view by the gsplat backend, with weights of cells; gsplat's own torch functions stand in for its kernels."""
    from gsplat.cuda import _torch_impl as plain

    from chorus_common.rasterize import gsplat_cuda, tile_weights

    def project(means: Any, covars: Any, quats: Any, scales: Any, *view: Any, **how: Any) -> Any:
        """The twin reads masks, which the kernel does not: on the host."""
        means, quats, scales, *camera = (_held(x) for x in (means, quats, scales, *view))
        covars, _ = plain._quat_scale_to_covar_preci(quats, scales, True, False, triu=False)
        options = {"eps2d": how["eps2d"], "calc_compensations": how["calc_compensations"]}
        found = plain._fully_fused_projection(means, covars, *camera, **options)
        return tuple(None if x is None else x.to(CUDA, non_blocking=True) for x in found)

    def pixels(
        means2d: Any, conics: Any, colors: Any, opacities: Any, width: int, height: int, *_: Any, **__: Any
    ) -> Any:
        return means2d.new_zeros(1, height, width, colors.shape[-1]), means2d.new_zeros(1, height, width, 1)

    def lists(*args: Any) -> Any:
        """On the host: the twin counts tiles one by one. What the kernel gives is back on the device."""
        found = plain._isect_tiles(*(_held(x) for x in args))
        return tuple(x.to(CUDA, non_blocking=True) for x in found)

    def offsets(ids: Any, *rest: Any) -> Any:
        return plain._isect_offset_encode(_held(ids), *rest).to(CUDA, non_blocking=True)

    def launch(*args: Any, **constants: Any) -> None:
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        assert all(x.is_cuda and x.is_contiguous() for x in tensors), "a kernel reads memory of the device, in rows"
        args[7].fill_(0.5)

    kernel = type("Kernel", (), {"__getitem__": lambda self, grid: launch})()
    scene, grid = tiny_scene(3, 60), CellGrid(36, 20, 8)
    with pretended_cuda() as device, patch.object(gsplat_cuda, "_check_extension", lambda: None):
        import gsplat

        with (
            patch.object(gsplat, "fully_fused_projection", project), patch.object(gsplat, "isect_tiles", lists),
            patch.object(gsplat, "isect_offset_encode", offsets), patch.object(gsplat, "rasterize_to_pixels", pixels),
            patch.object(tile_weights, "tile_weights", kernel),
        ):  # fmt: skip
            backend = gsplat_cuda.GsplatRasterizer()
            device.clear()
            view = look_at(np.array([2.0, 1.0, 0.5]), np.zeros(3))
            seen = backend.render(scene, view, pinhole(36, 20, 55), 36, 20, grid=grid)
            assert seen.hits is not None
            return device.waits


def _held(value: Any) -> Any:
    """A kernel's argument as its twin on the CPU takes it; tensors must be on the device."""
    if not isinstance(value, torch.Tensor):
        return value
    assert isinstance(value, CudaTensor), "a kernel reads memory of the device"
    return value.held


def _step(make: Callable[[], Recipe[Any]]) -> Waits:
    """The second optimiser step of a recipe on the device; the first one fills what is kept from step to step."""
    with pretended_cuda() as device:
        trainer = Trainer(make(), Processes(0, 1))
        trainer.step(0)
        batches = trainer.batches(1)
        device.clear()
        result = trainer.step(1, batches)
        assert not result.warning
        return device.waits


PATHS: dict[str, Callable[[], Waits]] = {
    "forward, chorus-lite": lambda: forward("chorus-lite"),
    "forward, sonata": lambda: forward("sonata"),
    "forward, ptv3": lambda: forward("ptv3"),
    "forward, utonia": lambda: forward("utonia"),
    "encode": encode,
    "train": train_plainly,
    "train, every term": train,
    "adapt": adapt,
    "field": field,
    "pretrain": pretrain,
    "gsplat view": rasterise,
}


def main() -> None:
    """Print every wait of the paths named on the command line, or of all."""
    for name in sys.argv[1:] or PATHS:
        waits = PATHS[name]()
        print(f"{name}: {sum(waits.values())}")
        for place, count in sorted(waits.items()):
            print(f"  {count:4} {place}")


if __name__ == "__main__":
    main()
