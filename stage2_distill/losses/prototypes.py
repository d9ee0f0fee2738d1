"""The prototype loss: a Gaussian's feature should be as near to some fixed vectors of the teacher's space as the
teacher's own feature is.

Matching alone answers doubt with a feature between the candidates; a softmax over prototypes asks which of them it is,
and learns within minutes what matching needs hours for (docs/experiments/demo.md). No label is seen: the prototypes are
cluster centres of the teacher's lifted features. This is SEED (Fang et al. 2021, arXiv 2101.04731, eq. 2 to 4) with
centres in place of a queue, so that the loss of a cloud depends on nothing but the cloud, and resuming needs no
queue.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from stage2_distill.data.order import PROTOTYPES, generator
from stage2_distill.data.targets import SceneTargets
from stage2_distill.settings import Objective, PrototypeSettings

#: of k-means; by then hardly a direction changes its centre
ROUNDS = 20


def prototype_loss(
    predicted: Tensor,
    target: Tensor,
    shares: Tensor,
    cloud: Tensor,
    n_clouds: int,
    prototypes: Tensor,
    temperature: float,
    balance: float = 0.0,
) -> Tensor:
    """sum over rows of shares * KL(softmax(cos(target, prototypes) / T) || softmax(cos(predicted, prototypes) / T)).

    Predictions shorter than 1 (the teacher's features are sqrt(C) long) count as less than a direction.

    Args:
        predicted, target: [M, C] in the teacher's standardised space. prototypes: [K, C] unit rows.
        shares: [M] weights of the rows, see `losses.distillation.cloud_shares`.
        cloud: [M] of each row. balance: rows weigh by (share of their cloud that is nearest to the same prototype) **
            -balance, so that walls do not own the loss; each cloud keeps its sum of weights.
    """
    if len(shares) == 0:
        return predicted.sum() * 0
    predicted, target = predicted.float(), target.float()
    wanted = F.log_softmax(F.normalize(target, dim=1) @ prototypes.T / temperature, dim=1)
    # eps: the gradient of a direction grows with one over the length, and a few features near zero would own a step
    given = F.log_softmax(F.normalize(predicted, dim=1, eps=1.0) @ prototypes.T / temperature, dim=1)
    if balance > 0:
        total = _sums(shares, cloud, n_clouds)
        kind = cloud * len(prototypes) + wanted.argmax(1)
        of_kind = _sums(shares, kind, n_clouds * len(prototypes))[kind]
        raised = shares * (of_kind / total[cloud]).clamp_min(1e-9) ** -balance
        shares = raised * (total / _sums(raised, cloud, n_clouds).clamp_min(1e-12))[cloud]
    return (F.kl_div(given, wanted, reduction="none", log_target=True).sum(1) * shares).sum()


def _sums(values: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Sum of `values` [M] in each of the groups."""
    return values.new_zeros(n_groups).scatter_add_(0, group, values)


def choose_prototypes(features: NDArray[np.floating], count: int, seed: int) -> NDArray[np.float32]:
    """Unit rows [K, C]: centres of the directions of `features` [M, C], by spherical k-means (Dhillon and Modha 2001)
    from a k-means++ start; a pure function of its arguments. K is `count`, or fewer where there are fewer features or
    clusters run empty.
    """
    directions = np.asarray(features, dtype=np.float64)
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    directions = directions[length[:, 0] > 0] / length[length[:, 0] > 0]
    if len(directions) <= count:
        return directions.astype(np.float32)
    centres = _spread(directions, count, np.random.default_rng(seed))
    for _ in range(ROUNDS):
        owner = (directions @ centres.T).argmax(1)
        members = sparse.csr_matrix((np.ones(len(owner)), (owner, np.arange(len(owner)))), (len(centres), len(owner)))
        sums = members @ directions
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = sums[norms[:, 0] > 0] / norms[norms[:, 0] > 0]
    return centres.astype(np.float32)


def _spread(directions: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """`count` rows, each drawn in proportion to its squared distance from those before it (k-means++)."""
    chosen = [int(rng.integers(len(directions)))]
    far = np.full(len(directions), np.inf)
    while len(chosen) < count:
        far = np.minimum(far, np.maximum(2 - 2 * directions @ directions[chosen[-1]], 0))
        reach = np.cumsum(far)
        if reach[-1] <= 0:
            break  # fewer distinct directions than centres
        chosen.append(min(int(np.searchsorted(reach, rng.random() * reach[-1], side="right")), len(far) - 1))
    return directions[chosen]


def prototypes_of_scenes(
    scenes: Sequence[SceneTargets],
    teacher: str,
    settings: PrototypeSettings,
    seed: int,
    objective: Objective = "lifted",
) -> NDArray[np.float32]:
    """Prototypes [K, C] from what the teacher says in some training scenes, of Gaussians or of cells as the `objective`
    has it; drawn alike whatever the number of processes.
    """
    rng = generator(seed, PROTOTYPES)
    having = [scene for scene in scenes if teacher in scene.teachers]
    chosen = np.sort(rng.permutation(len(having))[: settings.scenes])
    said = _of_gaussians if objective == "lifted" else _of_cells
    drawn = [said(having[k], teacher, settings.per_scene, rng) for k in chosen]
    return choose_prototypes(np.concatenate(drawn), settings.count, seed)


def _of_gaussians(scene: SceneTargets, teacher: str, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    geometry = scene.geometry()
    rows = rng.permutation(np.flatnonzero(geometry.valid))[:count]
    return scene.targets(np.sort(rows), geometry).values[teacher].astype(np.float32)


def _of_cells(scene: SceneTargets, teacher: str, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Cells that show something; nothing is lifted."""
    seen = np.unique(scene.index(np.arange(len(scene.geometry().scene))).columns)
    columns = np.sort(rng.permutation(seen)[:count])
    return scene.cells(teacher, np.arange(scene.n_views))[columns]
