"""How long a student's predictions should be: measured on training scenes (or their pictures), without labels.

A prediction's direction says what it sees. Its length decides how far it stands from the teacher's mean once that is
added again, and so how much of what it says outweighs "looks like anything": too short, and everything becomes the
commonest thing. Training does not settle it: a direction that averages over doubt has lost part of what tells things
apart, and no matching loss gives it back (matching rewards short answers in doubt). So the length is chosen afterwards,
as the one at which a prediction, in the teacher's own space, is most often nearest to the same cluster of the
teacher's features as the teacher's own feature is. docs/experiments/demo.md has what it is worth.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stage2_distill.data.dataset import CacheDataset
from stage2_distill.data.order import LENGTHS, generator
from stage2_distill.losses.anchors import choose_anchors
from stage2_distill.student import Student

#: Scenes that are looked at, voxels of each, and clusters of the teacher's features.
SCENES, PER_SCENE, CLUSTERS = 16, 2048, 64
#: Lengths tried, in units of sqrt(C): the length that PHI-S gives a teacher's token.
FACTORS = tuple(2 ** (k / 8) for k in range(-4, 13))


@torch.no_grad()
def calibrate_lengths(student: Student, dataset: CacheDataset, seed: int) -> None:
    """Set the lengths of all teachers that some of the drawn scenes have; `student` is left in eval mode.

    Scenes are as large as in training (`CacheDataset.plain`): the end of a run takes no more memory than its steps.
    """
    student.eval()
    device = next(student.parameters()).device
    rng = generator(seed, LENGTHS)
    predicted: dict[str, list[Tensor]] = {}
    wanted: dict[str, list[Tensor]] = {}
    for number in sorted(rng.permutation(len(dataset.scenes))[:SCENES].tolist()):
        batch = dataset.plain(number, lambda count: rng.permutation(count)[:PER_SCENE]).batch.to(device)
        latent = student.encoder(batch.points)
        for name, target in batch.targets.items():
            if batch.pixels is None:
                directions = F.normalize(student.project(name, latent[target.rows]), dim=1)
            else:  # what a cell shows grows with the length as its voxels do
                directions = (batch.pixels @ F.normalize(student.project(name, latent), dim=1))[target.rows]
            predicted.setdefault(name, []).append(directions)
            wanted.setdefault(name, []).append(target.values)
    for name in predicted:
        student.set_length(name, best_length(student, name, torch.cat(predicted[name]), torch.cat(wanted[name]), seed))


def best_length(student: Student, name: str, directions: Tensor, target: Tensor, seed: int) -> float:
    """The length, out of FACTORS times sqrt(C), at which predictions agree most often with the teacher on the nearest
    cluster; the smallest among equals.

    directions: [M, C] predictions at length 1, or means of such. target: [M, C] standardised.
    """
    basis = student.basis(name)
    own = F.normalize(basis.inverse(target), dim=1)
    anchors = torch.from_numpy(choose_anchors(own.cpu().numpy(), CLUSTERS, seed)).to(own.device)
    right = (own @ anchors.T).argmax(1)
    lengths = [factor * directions.shape[1] ** 0.5 for factor in FACTORS]
    # the nearest anchor needs no division: a feature's own length is the same for all anchors
    agreeing = [int(((basis.inverse(directions * at) @ anchors.T).argmax(1) == right).sum()) for at in lengths]
    return lengths[agreeing.index(max(agreeing))]
