"""What the trainings of the embedded teachers share: rooms of their own, augmentation, schedule, averaged weights.

The rooms' seeds begin at `FIRST_SEED`; no demo, test or study uses them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from chorus_common.lifting import CellGrid
from chorus_common.rasterize import get_backend
from data_manifests.synthetic import RoomOptions, SyntheticRoom, generate_room
from stage1_render_teachers.teachers.cell_network import PATCH

#: Rooms from this seed on are the teachers' own.
FIRST_SEED = 900_000_000

Arrays = dict[str, NDArray[Any]]


def pool_rooms(render: Callable[[int], Arrays], n: int, workers: int, path: Path | None) -> Arrays:
    """`render(seed)` of `n` reserved rooms in `workers` processes, its arrays concatenated; kept in the .npz `path`."""
    if path is not None and path.is_file():
        with np.load(path) as data:
            return {key: data[key] for key in data.files}
    parts: list[Arrays] = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        for part in executor.map(render, range(FIRST_SEED, FIRST_SEED + n)):
            parts.append(part)
            if len(parts) % 20 == 0:
                click.echo(f"rendered {len(parts)}/{n} rooms")
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    if path is not None:
        np.savez(path, allow_pickle=False, **arrays)
    return arrays


def render_room(
    seed: int, groups: Callable[[SyntheticRoom], tuple[NDArray[np.integer] | None, int]]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """One room's pictures [V, H, W, 3] u8 and the share of each group in each cell [V, rows, cols, K].

    groups: the group [N] of every Gaussian, negative for none, and K.
    """
    room = generate_room(seed, RoomOptions())
    group, count = groups(room)
    assert group is not None
    cameras = room.cameras
    grid = CellGrid(cameras.width, cameras.height, PATCH)
    backend = get_backend("cpu")
    images = np.empty((len(cameras), cameras.height, cameras.width, 3), dtype=np.uint8)
    shares = np.zeros((len(cameras), grid.rows * grid.cols, count))
    for v in range(len(cameras)):
        view, k = cameras.viewmats[v], cameras.intrinsics[v]
        out = backend.render(room.scene, view, k, cameras.width, cameras.height, grid=grid)
        images[v] = np.rint(np.clip(out.color, 0, 1) * 255)
        assert out.hits is not None
        hit = group[out.hits.gaussian_ids]
        known = hit >= 0
        np.add.at(shares[v], (out.hits.cells[known], hit[known]), out.hits.weights[known] / PATCH**2)
    return images, shares.reshape(len(cameras), grid.rows, grid.cols, count)


def augment(images: Tensor, cells: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Crop to 4/5 of the picture at a random zoom, mirror, recolour: images [B, 3, H, W], what is known of their cells
    [B, K, rows, cols], whose numbers stay as they are.
    """
    rows, cols = cells.shape[-2:]
    zoom = 0.8 + 0.8 * torch.rand((), generator=generator).item()
    r, c = min(rows, round(0.8 * rows / zoom)), min(cols, round(0.8 * cols / zoom))
    top = int(torch.randint(rows - r + 1, (), generator=generator))
    left = int(torch.randint(cols - c + 1, (), generator=generator))
    images = images[..., top * PATCH : (top + r) * PATCH, left * PATCH : (left + c) * PATCH]
    cells = cells[..., top : top + r, left : left + c]
    size = (4 * rows // 5, 4 * cols // 5)
    images = F.interpolate(images, size=(size[0] * PATCH, size[1] * PATCH), mode="bilinear", align_corners=False)
    cells = F.interpolate(cells, size=size, mode="nearest")
    if torch.rand((), generator=generator) < 0.5:
        images, cells = images.flip(-1), cells.flip(-1)
    b = images.shape[0]
    per_channel, per_image, shift = (torch.rand(b, n, 1, 1, generator=generator) - 0.5 for n in (3, 1, 1))
    return (images * (1 + 0.3 * per_channel + 0.4 * per_image) + 0.15 * shift).clamp(0, 1), cells


def learning_rate(step: int, total: int, peak: float = 3e-3, rise: int = 100) -> float:
    """Linear up over `rise` steps, cosine down to a hundredth."""
    return peak * min(1.0, (step + 1) / rise) * (0.505 + 0.495 * math.cos(math.pi * step / total))


def to_unit(values: NDArray[np.uint8]) -> Tensor:
    """[B, H, W, C] u8 -> [B, C, H, W] f32 in [0, 1]."""
    return torch.from_numpy(values).permute(0, 3, 1, 2).float() / 255


def descend(loss: Tensor, model: nn.Module, averaged: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    """One step of `model` down the gradient of `loss`, clipped to length 1; `averaged` follows."""
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    update_average(averaged, model, decay=min(0.998, (step + 1) / (step + 10)))


def training_options(rooms: int, steps: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options that both training commands have, with their defaults."""
    options = (
        click.option("--rooms", default=rooms, show_default=True, help="rooms to render for training"),
        click.option("--held-out", default=8, show_default=True, help="further rooms to measure on"),
        click.option("--steps", default=steps, show_default=True),
        click.option("--workers", default=2, show_default=True, help="processes that render"),
        click.option("--threads", default=1, show_default=True, help="threads of the training itself"),
        click.option(
            "--pool", type=click.Path(path_type=Path), default=None, help="keep the rendered rooms in this .npz"
        ),
        click.option("--seed", default=0, show_default=True),
    )

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@torch.no_grad()
def update_average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of parameters; buffers (BatchNorm's statistics) are averages already."""
    for a, b in zip(averaged.parameters(), model.parameters()):
        a.lerp_(b, 1 - decay)
    for old, new in zip(averaged.buffers(), model.buffers()):
        old.copy_(new)
