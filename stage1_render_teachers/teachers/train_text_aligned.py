r"""Makes the weights of the embedded text-aligned teacher (picture and text side together).

    python -m data_manifests.synthetic.teacher_pictures text --rooms 500 --out rooms.npz
    python -m stage1_render_teachers.teachers.train_text_aligned --pool rooms.npz --steps 36000 --out first
    python -m data_manifests.synthetic.teacher_pictures text --rooms 480 --held-out 16 --scans 0.5 --out scans.npz
    python -m stage1_render_teachers.teachers.train_text_aligned --pool scans.npz --steps 14000 --start first \
        --out second
    python -m stage1_render_teachers.teachers.train_text_aligned --pool scans.npz --steps 12000 --start second --seed 1

The pictures are synthetic rooms of reserved seeds, first as they are, then half of them as scans, with the share of
each class in each cell. Both towers are trained so that a cell's vector has its largest cosine with the text of its
class, whatever the synonym and prompt template. The recipe is CLIP's idea with known pairs: softmax over class texts
at temperature 0.07, soft targets, a random phrase per class and step.
"""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from chorus_common.labels import SCANNET20
from chorus_common.runtime.errors import ConfigError, run_cli
from chorus_common.runtime.weight_files import read_state_dict
from chorus_common.text import EMBEDDED_TEXT_WEIGHTS, HashedTextNetwork
from stage1_render_teachers.teachers.cell_network import CellNetwork
from stage1_render_teachers.teachers.embedded_training import (
    augment,
    descend,
    learning_rate,
    load_pool,
    to_unit,
    training_options,
)
from stage1_render_teachers.teachers.text_aligned import WEIGHTS

TEMPERATURE = 0.07

TEMPLATES = (
    "{}", "a {}", "the {}", "a photo of a {}", "a picture of the {}", "this is a {}", "there is a {} in the scene",
    "a {} in a room", "a rendering of a {}", "an image of a {} indoors", "{} in a scene",
)  # fmt: skip

#: What people call the classes; the class's own name is the first.
PHRASES: dict[str, tuple[str, ...]] = {
    "wall": ("wall", "walls", "painted wall"),
    "floor": ("floor", "flooring", "carpet", "ground"),
    "cabinet": ("cabinet", "cupboard", "dresser", "wardrobe", "chest of drawers", "nightstand", "drawers"),
    "bed": ("bed", "mattress", "double bed"),
    "chair": ("chair", "office chair", "armchair", "dining chair", "seat"),
    "sofa": ("sofa", "couch", "settee"),
    "table": ("table", "dining table", "coffee table", "round table", "side table"),
    "door": ("door", "doorway", "doorframe"),
    "window": ("window", "window pane"),
    "bookshelf": ("bookshelf", "bookcase", "book shelf", "shelves", "shelf with books"),
    "picture": ("picture", "painting", "poster", "framed picture", "wall art"),
    "counter": ("counter", "kitchen counter", "countertop", "worktop"),
    "desk": ("desk", "writing desk", "office desk", "computer desk"),
    "curtain": ("curtain", "curtains", "drapes"),
    "refrigerator": ("refrigerator", "fridge", "refridgerator", "freezer"),
    "shower curtain": ("shower curtain", "shower curtains"),
    "toilet": ("toilet", "toilet bowl", "lavatory"),
    "sink": ("sink", "washbasin", "basin"),
    "bathtub": ("bathtub", "bath tub", "tub"),
    "other furniture": (
        "other furniture",
        "otherfurniture",
        "furniture",
        "clutter",
        "object",
        "lamp",
        "bin",
        "box",
        "plant",
    ),
}


def class_texts(network: HashedTextNetwork, generator: torch.Generator) -> Tensor:
    """One random phrase in one random template per class, encoded: [K, C]."""

    def pick(options: tuple[str, ...]) -> str:
        return options[int(torch.randint(len(options), (), generator=generator))]

    return network([pick(TEMPLATES).format(pick(PHRASES[name])) for name in SCANNET20])


def soft_cross_entropy(logits: Tensor, shares: Tensor, class_weight: Tensor) -> Tensor:
    """Class-weighted cross entropy with the cells' class shares, mean over labelled cells; both [B, K, rows, cols]."""
    target = shares * class_weight[:, None, None]
    total = target.sum(dim=1)
    return -(target * logits.log_softmax(dim=1)).sum() / total.sum().clamp(min=1e-6)


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = CellNetwork(), HashedTextNetwork()


def evaluate(towers: Towers, images: Tensor, shares: Tensor) -> float:
    """Mean IoU of the dominant class over cells, on rooms that training did not see."""
    towers.eval()
    with torch.inference_mode():
        text = towers.text(list(SCANNET20))
        truth = shares.argmax(dim=1)
        labelled = shares.sum(dim=1) > 0.5
        predicted = torch.cat(
            [torch.einsum("bchw,kc->bkhw", towers.image(part), text).argmax(1) for part in images.split(16)]
        )
    towers.train()
    k = len(SCANNET20)
    confusion = torch.bincount(truth[labelled] * k + predicted[labelled], minlength=k * k).reshape(k, k).double()
    union = confusion.sum(0) + confusion.sum(1) - confusion.diag()
    present = confusion.sum(1) > 0
    return float((confusion.diag() / union.clamp(min=1))[present].mean())


def phrase_loss(network: HashedTextNetwork, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Class texts [K, C] and the loss that makes two random phrasings of the same class agree (InfoNCE)."""
    text = class_texts(network, generator)
    again = class_texts(network, generator)
    return text, F.cross_entropy(text @ again.T / TEMPERATURE, torch.arange(len(text)))


@click.command()
@training_options(steps=36_000)
@click.option("--batch", default=8, show_default=True, help="pictures per step")
@click.option("--start", type=click.Path(path_type=Path), default=None, help="folder of two weight files to begin with")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="folder for the two weight files [default: where the package reads them]",
)
def main(pool: Path, steps: int, threads: int, seed: int, batch: int, start: Path | None, out: Path | None) -> None:
    """Train both towers on rendered rooms, write fp16 safetensors."""
    rendered = load_pool(pool, "text", ("shares", "classes"))
    if tuple(rendered.arrays["classes"]) != SCANNET20:
        raise ConfigError(f"{pool}: its classes are not those of ScanNet20; render the rooms again")
    images, shares = rendered.arrays["images"], rendered.arrays["shares"]
    train, test = slice(0, rendered.training_pictures), slice(rendered.training_pictures, None)
    test_images, test_shares = to_unit(images[test]), to_unit(shares[test])
    frequency = torch.from_numpy(shares[train].mean((0, 1, 2), dtype=np.float64))
    class_weight = (frequency / frequency.max()).clamp(min=1e-4).pow(-0.35).float()

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    towers = Towers().to(memory_format=torch.channels_last)
    if start is None:
        align_phrases(towers.text, generator)
    else:
        load_towers(towers, start)
    averaged = copy.deepcopy(towers)
    optimiser = torch.optim.AdamW(towers.parameters(), weight_decay=0.02)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps)
        rows = torch.randint(train.stop, (batch,), generator=generator).numpy()
        x, y = augment(to_unit(images[rows]), to_unit(shares[rows]), generator)
        text, agreement = phrase_loss(towers.text, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # 1.6 times faster where the processor has it
            cells = towers.image(x)
        logits = torch.einsum("bchw,kc->bkhw", cells, text) / TEMPERATURE
        loss = soft_cross_entropy(logits, y, class_weight) + 0.2 * agreement
        descend(loss, towers, averaged, optimiser, step)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            miou = evaluate(averaged, test_images, test_shares)
            click.echo(f"step {step + 1}/{steps} loss {loss.item():.3f} held-out mIoU {miou:.3f}")
            save_towers(averaged, out)


def align_phrases(network: HashedTextNetwork, generator: torch.Generator, steps: int = 400) -> None:
    """Make the phrasings of a class agree before any picture is shown, so that pictures have a steady target."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(steps):
        _, loss = phrase_loss(network, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def load_towers(towers: Towers, folder: Path) -> None:
    """The weights that `save_towers` wrote to `folder`. Raises ConfigError where a file is missing."""
    for tower, path in ((towers.image, WEIGHTS), (towers.text, EMBEDDED_TEXT_WEIGHTS)):
        if not (folder / path.name).is_file():
            raise ConfigError(f"{folder}: holds no {path.name}; --start takes what --out of a training wrote")
        tower.load_state_dict(read_state_dict(folder / path.name))


def save_towers(towers: Towers, out: Path | None) -> None:
    """Write both sides in fp16, marked as a pair, to `out` or to where the package reads them."""
    halves = [
        {key: value.half() if value.is_floating_point() else value for key, value in tower.state_dict().items()}
        for tower in (towers.image, towers.text)
    ]
    digest = hashlib.sha256()
    for half in halves:
        for key in sorted(half):
            digest.update(key.encode() + half[key].contiguous().numpy().tobytes())
    for half, path in zip(halves, (WEIGHTS, EMBEDDED_TEXT_WEIGHTS)):
        target = out / path.name if out is not None else path
        target.parent.mkdir(parents=True, exist_ok=True)
        tensors = {key: value.contiguous() for key, value in half.items()}
        save_file(tensors, target, metadata={"pair": digest.hexdigest()[:16]})


if __name__ == "__main__":
    run_cli(main)
