"""Stage 1 on the device: views per second, alone and with teachers, and where the time of a view goes.

The teachers have their real architectures and random weights: time does not depend on what a network has learnt.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chorus_common.features.quantise import Quantiser
from chorus_common.lifting import CellGrid
from data_manifests.synthetic import RoomOptions, generate_room
from stage1_render_teachers.teachers import build_teacher
from tests.gpu_check.context import Context, median

CELL = 16


def run(context: Context) -> None:
    """Per scene size a row for pictures alone, with weights, with a ViT-B, with three teachers."""
    width, height = context.size((640, 480), (64, 48))
    grid = CellGrid(width, height, CELL)
    rasterizer = context.rasterizer()
    with tempfile.TemporaryDirectory() as folder:
        teachers = random_teachers(Path(folder), context)
        for gaussians in context.size((75_000, 500_000, 1_000_000), (2_000,)):
            context.check_time(8)
            room = generate_room(0, RoomOptions(gaussians=gaussians, views=8, width=width, height=height))
            cameras = list(zip(room.cameras.viewmats, room.cameras.intrinsics))
            draw = partial(rasterizer.render, room.scene, width=width, height=height)
            plain = _per_view(context, lambda view, k, draw=draw: draw(view, k), cameras)
            weights = _per_view(context, lambda view, k, draw=draw: draw(view, k, grid=grid), cameras)
            for what, seconds in (("pictures", plain), ("pictures and weights", weights)):
                context.add(gaussians=len(room.scene), what=what, views_per_s=1 / seconds, seconds=seconds)
            for count in (1, len(teachers)):
                context.check_time(5)
                shares = _with_teachers(context, draw, cameras, grid, teachers[:count])
                seconds = sum(shares.values())
                context.add(
                    gaussians=len(room.scene), what=f"with {', '.join(name for name, _ in teachers[:count])}",
                    views_per_s=1 / seconds, seconds=seconds, **{k: v / seconds for k, v in shares.items()},
                )  # fmt: skip


def _per_view(context: Context, draw: Callable[..., Any], cameras: list[Any]) -> float:
    """Seconds per view, the median over all views."""
    draw(*cameras[0])
    times = []
    for view, k in cameras:
        start = time.perf_counter()
        draw(view, k)
        context.wait()
        times.append(time.perf_counter() - start)
    return median(sorted(times))


def _with_teachers(
    context: Context, draw: Callable[..., Any], cameras: list[Any], grid: CellGrid, teachers: list[tuple[str, Any]]
) -> dict[str, float]:
    """Seconds per view of each step, one after the other: draw, ask, quantise."""
    spent = {"draw": 0.0, "teachers": 0.0, "quantise": 0.0}
    for warm in (True, False):
        pictures, start = [], time.perf_counter()
        for view, k in cameras:
            pictures.append(np.round(draw(view, k, grid=grid).color.clip(0, 1) * 255).astype(np.uint8))
        drawn = time.perf_counter()
        features = [teacher.features(np.stack(pictures), grid) for _, teacher in teachers]
        asked = time.perf_counter()
        for values in features:
            flat = values.reshape(-1, values.shape[-1])
            Quantiser(4).encode((flat - flat.mean(0)) / (flat.std(0) + 1e-6))
        if not warm:
            spent = {"draw": drawn - start, "teachers": asked - drawn, "quantise": time.perf_counter() - asked}
    return {name: seconds / len(cameras) for name, seconds in spent.items()}


def random_teachers(folder: Path, context: Context) -> list[tuple[str, Any]]:
    """A ViT-B of DINO's kind, CLIP's ViT-B-16 and SAM's ViT-B, at bfloat16; small ones in a rehearsal."""
    import timm
    from safetensors.torch import save_file

    device, found = context.device.type, []
    name = context.size("vit_base_patch16_224", "vit_tiny_patch16_224")
    torch.manual_seed(0)
    save_file(timm.create_model(name, num_classes=0).state_dict(), folder / "timm.safetensors")
    found.append(("ViT-B", build_teacher(f"timm:{name}:{folder / 'timm.safetensors'}@bf16", device)))
    if context.rehearse:
        return [*found, ("embedded dense", build_teacher("embedded:dense", device))]
    import open_clip
    from segment_anything import sam_model_registry

    clip = open_clip.create_model("ViT-B-16").state_dict()
    save_file({key: value.contiguous() for key, value in clip.items()}, folder / "clip.safetensors")
    found.append(("CLIP ViT-B-16", build_teacher(f"open_clip:ViT-B-16:{folder / 'clip.safetensors'}@bf16", device)))
    torch.save(sam_model_registry["vit_b"]().state_dict(), folder / "sam.pth")
    found.append(("SAM ViT-B", build_teacher(f"sam:vit_b:{folder / 'sam.pth'}@bf16", device)))
    return found
