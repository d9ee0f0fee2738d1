"""Makes the weights of the embedded object-aware teacher.

    python -m data_manifests.synthetic.teacher_pictures objects --rooms 250 --out objects.npz
    python -m stage1_render_teachers.teachers.train_object_aware --pool objects.npz --steps 9000

Training begins with the text-aligned teacher's network, as PE-Spatial begins with a text-aligned one, and teaches it
two things on synthetic rooms of reserved seeds. Cells of one object agree and cells of its neighbours do not, also
between two views of a room (InfoNCE with several positives). Objects of one kind lie together, for the 65 raw
categories of the rooms, more than class names tell apart (softmax over learnt centres, which are not kept).
"""

from __future__ import annotations

import copy
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from chorus_common.runtime.errors import run_cli
from stage1_render_teachers.teachers import text_aligned
from stage1_render_teachers.teachers.cell_network import load_network
from stage1_render_teachers.teachers.embedded_training import (
    PicturePool,
    augment,
    descend,
    learning_rate,
    load_pool,
    to_unit,
    training_options,
)
from stage1_render_teachers.teachers.object_aware import WEIGHTS, ObjectAwareTeacher

KIND_TEMPERATURE, OBJECT_TEMPERATURE = 0.07, 0.1
OBJECT_WEIGHT = 0.3
#: Cells of the two views of a room that are compared with each other, and how much of one its object must fill.
COMPARED, FILLED = 160, 0.6


class KindsOfCells(nn.Module):
    """The teacher's network and a centre per kind, which training alone needs."""

    def __init__(self, kinds: int) -> None:
        super().__init__()
        self.network = load_network(text_aligned.WEIGHTS, torch.device("cpu"), "train_text_aligned").train()
        self.centres = nn.Parameter(torch.randn(kinds, ObjectAwareTeacher.channels) * 0.1)

    def logits(self, vectors: Tensor) -> Tensor:
        """[B, C, rows, cols] -> [B, K, rows, cols]"""
        return torch.einsum("bchw,kc->bkhw", vectors, F.normalize(self.centres, dim=1)) / KIND_TEMPERATURE


def object_contrast(vectors: Tensor, instances: Tensor, usable: Tensor, generator: torch.Generator) -> Tensor | None:
    """InfoNCE over cells of the views of one room: those of the same object attract each other, all others repel.

    vectors [V, C, rows, cols], instances and usable [V, rows, cols]. Small objects are drawn more often than their size
    would have it. None where there is next to nothing to compare.
    """
    rows = usable.flatten().nonzero().squeeze(1)
    if len(rows) < 32:
        return None
    _, member, size = instances.flatten()[rows].unique(return_inverse=True, return_counts=True)
    drawn = torch.multinomial(size[member].float().rsqrt(), min(COMPARED, len(rows)), generator=generator)
    x = vectors.permute(0, 2, 3, 1).flatten(0, 2)[rows[drawn]].float()  # [M, C]
    own = torch.eye(len(x), dtype=torch.bool)
    log_share = (x @ x.T / OBJECT_TEMPERATURE).masked_fill(own, -1e9).log_softmax(dim=1)
    same = (member[drawn][:, None] == member[drawn][None]) & ~own
    having = same.any(dim=1)
    return -((log_share * same).sum(dim=1)[having] / same.sum(dim=1)[having]).mean()


def kind_loss(logits: Tensor, kinds: Tensor, shares: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy with the kinds [B, rows, cols], weighted by the kind's weight and its share of the cell."""
    known = weight[kinds.clamp(min=0)] * shares * (kinds >= 0)
    entropy = F.cross_entropy(logits, kinds.clamp(min=0), reduction="none")
    return (entropy * known).sum() / known.sum().clamp(min=1e-6)


@torch.inference_mode()
def evaluate(model: KindsOfCells, pool: PicturePool) -> float:
    """Mean IoU over ScanNet20 of held-out cells that an object fills, by the nearest centre of a kind that is one of
    its classes.
    """
    model.eval()
    arrays, class_of = pool.arrays, pool.arrays["kind_classes"]
    named = torch.from_numpy(class_of >= 0)
    confusion = np.zeros((20, 20))
    for start in range(pool.training_pictures, len(arrays["images"]), 16):
        part = slice(start, start + 16)
        logits = model.logits(model.network(to_unit(arrays["images"][part])))
        kind = logits.masked_fill(~named[:, None, None], -torch.inf).argmax(dim=1).numpy()
        truth = np.where(arrays["kinds"][part] >= 0, class_of[arrays["kinds"][part]], -1)
        scored = (truth >= 0) & (arrays["shares"][part] > 128)
        np.add.at(confusion, (truth[scored], class_of[kind[scored]]), 1)
    model.train()
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    present = confusion.sum(1) > 0
    return float((confusion.diagonal() / np.maximum(union, 1))[present].mean())


@click.command()
@training_options(steps=9_000)
@click.option("--pairs", default=4, show_default=True, help="rooms per step, two views each")
@click.option("--out", type=click.Path(path_type=Path), default=WEIGHTS, show_default=True)
def main(pool: Path, steps: int, threads: int, seed: int, pairs: int, out: Path) -> None:
    """Train on rendered rooms, write fp16 safetensors."""
    rendered = load_pool(pool, "objects", ("instances", "kinds", "shares", "kind_names", "kind_classes"))
    arrays, rooms, views = rendered.arrays, rendered.rooms, rendered.views
    seen = slice(0, rendered.training_pictures)
    kinds = arrays["kinds"][seen][(arrays["kinds"][seen] >= 0) & (arrays["shares"][seen] > 128)]
    counts = np.bincount(kinds, minlength=len(arrays["kind_names"]))
    frequency = counts / counts.max()
    weight = torch.from_numpy(np.clip(frequency, 1e-4, None) ** -0.35 * (frequency > 0)).float()

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = KindsOfCells(len(arrays["kind_names"]))
    averaged = copy.deepcopy(model)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak=1.5e-3, rise=200)
        room = torch.randint(rooms, (pairs, 1), generator=generator)
        rows = (room * views + torch.randint(views, (pairs, 2), generator=generator)).flatten().numpy()
        known = np.stack([arrays[name][rows].astype(np.float32) for name in ("instances", "kinds", "shares")], axis=1)
        x, cells = augment(to_unit(arrays["images"][rows]), torch.from_numpy(known), generator)
        instance, kind, share = cells[:, 0].long(), cells[:, 1].long(), cells[:, 2] / 255
        with torch.autocast("cpu", dtype=torch.bfloat16):
            vectors = model.network(x)
        loss = kind_loss(model.logits(vectors), kind, share, weight)
        usable = (kind >= 0) & (share > FILLED)
        per_room = [
            object_contrast(
                vectors[2 * k : 2 * k + 2], instance[2 * k : 2 * k + 2], usable[2 * k : 2 * k + 2], generator
            )
            for k in range(pairs)
        ]
        contrasts = [c for c in per_room if c is not None]
        if contrasts:
            loss = loss + OBJECT_WEIGHT * torch.stack(contrasts).mean()
        descend(loss, model, averaged, optimiser, step)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            miou = evaluate(averaged, rendered)
            click.echo(f"step {step + 1}/{steps} loss {loss.item():.3f} held-out mIoU {miou:.3f}")
            save_weights(averaged.network, out)


def save_weights(network: nn.Module, path: Path) -> None:
    """Write the network in fp16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)


if __name__ == "__main__":
    run_cli(main)
