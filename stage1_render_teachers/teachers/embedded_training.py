"""What the trainings of the embedded teachers share: rendered rooms, augmentation, schedule, averaged weights."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from chorus_common.runtime.errors import ConfigError, one_line
from stage1_render_teachers.teachers.cell_network import PATCH

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class PicturePool:
    """The rendered rooms of a training, as data_manifests/synthetic/teacher_pictures.py writes them.

    arrays: by name, one entry per picture (or per class or kind); the `rooms` training rooms come first, then the
    `held_out` ones, `views` pictures each.
    """

    arrays: Arrays
    rooms: int
    held_out: int
    views: int

    @property
    def training_pictures(self) -> int:
        return self.rooms * self.views


def load_pool(path: Path, what: str, names: Sequence[str]) -> PicturePool:
    """The pool in the .npz `path` with the arrays `names`.

    Raises ConfigError where the file is not a pool of `what`, or was rendered with cells of another size.
    """
    remedy = f"make it with: python -m data_manifests.synthetic.teacher_pictures {what} --rooms N --out {path}"
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {key: data[key] for key in data.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: cannot be read as a pool of rooms ({one_line(error)}); {remedy}") from None
    missing = [name for name in ("images", "rooms", "held_out", "cell", *names) if name not in arrays]
    if missing:
        raise ConfigError(f"{path}: holds no {', '.join(missing)}; {remedy}")
    rooms, held_out, cell = (int(arrays[name]) for name in ("rooms", "held_out", "cell"))
    if cell != PATCH:
        raise ConfigError(f"{path}: was rendered for cells of {cell} px, the network's have {PATCH}; {remedy}")
    return PicturePool(arrays, rooms, held_out, len(arrays["images"]) // (rooms + held_out))


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


def training_options(steps: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options that both training commands have, with their defaults."""
    options = (
        click.option(
            "--pool",
            type=click.Path(path_type=Path, dir_okay=False),
            required=True,
            help="Rendered rooms (.npz), see data_manifests.synthetic.teacher_pictures.",
        ),
        click.option("--steps", default=steps, show_default=True),
        click.option("--threads", default=1, show_default=True, help="Threads of the training."),
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
