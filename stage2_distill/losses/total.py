"""The distillation loss of one batch: every active teacher's matching and contrastive terms, weighted and added.

Every term is a mean over the clouds of a batch, a cloud that has nothing to say counting as zero. So a batch's loss is
the mean of its clouds' losses, however they are spread over forward passes and processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from stage2_distill.data.batch import Batch
from stage2_distill.losses.distillation import DistillationTerms, cloud_shares, distillation_loss, visibility_weight
from stage2_distill.losses.label_contrast import label_contrast
from stage2_distill.losses.mask_contrast import mask_contrast
from stage2_distill.losses.prototypes import prototype_loss
from stage2_distill.losses.rows import take_rows
from stage2_distill.losses.schedule import TermWeights
from stage2_distill.settings import TeacherSettings
from stage2_distill.student import Student


@dataclass(frozen=True)
class TeacherTerms:
    """One teacher's terms.

    Attributes:
        loss: distillation + eta prototypes + eta contrast, mean over all clouds of the batch.
        distillation: means over the clouds that the teacher saw; `seen` is their share of the batch.
        others: unweighted terms beside the distillation loss, by name.
    """

    loss: Tensor
    distillation: DistillationTerms
    seen: Tensor
    others: Mapping[str, Tensor]

    def values(self) -> dict[str, Tensor]:
        """For the log."""
        distillation = {
            "distillation": self.distillation.loss,
            "cosine": self.distillation.cosine,
            "smooth_l1": self.distillation.smooth_l1,
        }
        return distillation | dict(self.others)


@dataclass(frozen=True)
class TotalTerms:
    """total = sum over teachers of lambda_t * (distill_t + eta_t con_t), or None where no teacher has a weight;
    terms per teacher for the log. idle: teachers whose heads were called without anything to learn.
    """

    total: Tensor | None
    terms: Mapping[str, TeacherTerms]
    idle: tuple[str, ...] = ()


def total_loss(
    student: Student,
    batch: Batch,
    teachers: Mapping[str, TeacherSettings],
    weights: Mapping[str, TermWeights],
    prototypes: Mapping[str, Tensor],
    *,
    call_idle: bool = False,
) -> TotalTerms:
    """total(e) = sum over active teachers t in A(e) of lambda_t (distill_t + eta_t con_t)   (Chorus, arXiv 2512.17817).

    Args:
        weights: lambda_t and eta_t at this point of the schedule; teachers of weight 0 cost nothing.
        prototypes: [K, C] of the teachers that have a prototype term.
        call_idle: call the heads of teachers that this batch has nothing of, too, with no row: other processes, which
            hold a share of them, may have something to learn.
    """
    wanted = [name for name, weight in weights.items() if weight.teacher > 0]
    if not wanted:
        return TotalTerms(None, {})
    latent = student.encoder(batch.points)
    terms: dict[str, TeacherTerms] = {}
    nothing: dict[str, Tensor] = {}
    for name in wanted:
        if name in batch.targets:
            terms[name] = teacher_terms(
                student, name, latent, batch, teachers[name], weights[name], prototypes.get(name)
            )
        elif call_idle:
            nothing[name] = student.project(name, latent[:0]).sum()
    if terms:
        total = torch.stack([weights[name].teacher * term.loss for name, term in terms.items()]).sum()
    else:  # other processes, whose BatchNorm waits for this one's rows, may have something to learn
        total = 0 * latent.sum()
    return TotalTerms(sum(nothing.values(), total), terms, tuple(nothing))


def teacher_terms(
    student: Student,
    name: str,
    latent: Tensor,
    batch: Batch,
    settings: TeacherSettings,
    weights: TermWeights,
    prototypes: Tensor | None = None,
) -> TeacherTerms:
    """Terms of one teacher, in f32. Without contrastive ones only rows with a target go through its projector."""
    target = batch.targets[name]
    masks = batch.masks.get(name) if weights.masks > 0 else None
    labels = batch.labels.get(name) if weights.labels > 0 else None
    if masks is None and labels is None and batch.pixels is None:
        predicted = student.matched(name, student.project(name, take_rows(latent, target.rows)))
    elif batch.pixels is None:
        everywhere = student.matched(name, student.project(name, latent))
        predicted = take_rows(everywhere, target.rows)
    else:  # what a cell shows is a mean of directions, and compared as a direction again
        everywhere = student.matched(name, student.project(name, latent))
        predicted = student.matched(name, take_rows(batch.pixels @ everywhere, target.rows))
    # autocast ends at the predictions: it would take the products within the terms, too, back from float to bf16
    with torch.autocast(predicted.device.type, enabled=False):
        shares, seen = cloud_shares(
            visibility_weight(target.weight, settings.visibility_half), target.cloud, len(batch)
        )
        distillation = distillation_loss(
            predicted,
            target.values,
            shares,
            cosine_weight=settings.cosine_weight,
            smooth_l1_weight=settings.smooth_l1_weight,
            beta=settings.beta,
            offset=student.standardiser(name).offset() if settings.cosine_space == "teacher" else None,
            own_space=student.standardiser(name).linear() if settings.smooth_l1_space == "teacher" else None,
        )
        loss, others = distillation.loss * seen, {}
        if weights.prototypes > 0 and prototypes is not None:
            asked = settings.prototypes
            term = prototype_loss(
                predicted, target.values, shares, target.cloud, len(batch), prototypes, asked.temperature, asked.balance
            )
            others["prototypes"] = term.detach()
            loss = loss + weights.prototypes * term * seen
        if masks is not None:
            others["masks"] = mask_contrast(everywhere, masks, len(batch), settings.masks.temperature)
            loss = loss + weights.masks * others["masks"]
        if labels is not None:
            others["labels"] = label_contrast(everywhere, labels, len(batch), settings.labels.temperature)
            loss = loss + weights.labels * others["labels"]
        return TeacherTerms(loss, distillation, seen, others)
