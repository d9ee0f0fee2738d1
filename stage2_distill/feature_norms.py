"""How long a student's predictions should be: measured on training scenes (or their pictures), without labels.

A prediction's direction says what it sees. Its feature norm decides how far it stands from the teacher's mean once that
is added again, and so how much of what it says outweighs "looks like anything": too short, and everything becomes the
commonest thing. Training does not settle it: a direction that averages over doubt has lost part of what tells things
apart, and no distillation loss gives it back (matching rewards short answers in doubt). So the feature norm is chosen
afterwards, as the one at which a prediction, in the teacher's own space, is most often nearest to the same cluster of
the teacher's features as the teacher's own feature is. docs/experiments/demo.md has what it is worth.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stage2_distill.data.dataset import CacheDataset
from stage2_distill.data.order import FEATURE_NORMS, generator
from stage2_distill.engine.move import to_device
from stage2_distill.losses.prototypes import choose_prototypes
from stage2_distill.student import Student

#: Scenes that are looked at, voxels of each, and clusters of the teacher's features.
SCENES, PER_SCENE, CLUSTERS = 16, 2048, 64
#: Feature norms tried, in units of sqrt(C): the feature norm that PHI-S gives a teacher's token.
FACTORS = tuple(2 ** (k / 8) for k in range(-4, 13))


@torch.no_grad()
def calibrate_feature_norms(student: Student, dataset: CacheDataset, seed: int) -> None:
    """Set the feature norms of all teachers that some of the drawn scenes have; `student` is left in eval mode. Heads
    that speak in the teacher's own space have none.

    Scenes are as large as in training (`CacheDataset.plain`): the end of a run takes no more memory than its steps.
    """
    student.eval()
    asked = {name for name, teacher in student.config.teachers.items() if teacher.space == "standardised"}
    if not asked:
        return
    device = next(student.parameters()).device
    rng = generator(seed, FEATURE_NORMS)
    predicted: dict[str, list[Tensor]] = {}
    wanted: dict[str, list[Tensor]] = {}
    for number in sorted(rng.permutation(len(dataset.scenes))[:SCENES].tolist()):
        batch = dataset.plain(number, lambda count: rng.permutation(count)[:PER_SCENE]).batch
        batch = to_device(batch, device)
        latent = student.encoder(batch.points)
        for name, target in batch.targets.items():
            if name not in asked:
                continue
            if batch.pixels is None:
                directions = F.normalize(student.project(name, latent[target.rows]), dim=1)
            else:  # what a cell shows grows with the feature norm as its voxels do
                directions = (batch.pixels @ F.normalize(student.project(name, latent), dim=1))[target.rows]
            predicted.setdefault(name, []).append(directions)
            wanted.setdefault(name, []).append(target.values)
    for name in predicted:
        student.set_feature_norm(
            name, best_feature_norm(student, name, torch.cat(predicted[name]), torch.cat(wanted[name]), seed)
        )


def best_feature_norm(student: Student, name: str, directions: Tensor, target: Tensor, seed: int) -> float:
    """The feature norm, out of FACTORS times sqrt(C), at which predictions agree most often with the teacher on the
    nearest cluster; the smallest among equals.

    directions: [M, C] predictions at feature norm 1, or means of such. target: [M, C] standardised.
    """
    standardiser = student.standardiser(name)
    own = F.normalize(standardiser.inverse(target), dim=1)
    prototypes = torch.from_numpy(choose_prototypes(own.cpu().numpy(), CLUSTERS, seed)).to(own.device)
    right = (own @ prototypes.T).argmax(1)
    feature_norms = [factor * directions.shape[1] ** 0.5 for factor in FACTORS]
    # the nearest prototype needs no division: a feature's own feature norm is the same for all prototypes
    agreeing = [
        int(((standardiser.inverse(directions * at) @ prototypes.T).argmax(1) == right).sum()) for at in feature_norms
    ]
    return feature_norms[agreeing.index(max(agreeing))]
