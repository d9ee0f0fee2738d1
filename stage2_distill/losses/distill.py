"""The distillation loss of one batch: every active teacher's matching loss, weighted and added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stage2_distill.data.dataset import Batch
from stage2_distill.losses.match import MatchTerms, evidence_weight, match_loss
from stage2_distill.settings import TeacherSettings
from stage2_distill.student import Student


@dataclass(frozen=True)
class DistillTerms:
    """total = sum over teachers of lambda_t * match_t, or None where no active teacher saw the batch; terms per teacher
    for the log.
    """

    total: Tensor | None
    terms: Mapping[str, MatchTerms]


def distill_loss(
    student: Student, batch: Batch, teachers: Mapping[str, TeacherSettings], weights: Mapping[str, float]
) -> DistillTerms:
    """total(e) = sum over active teachers t in A(e) of lambda_t match_t   (Chorus, arXiv 2512.17817).

    Args:
        weights: lambda_t at this point of the schedule; teachers of weight 0 cost nothing.
    """
    active = [name for name, weight in weights.items() if weight > 0 and name in batch.targets]
    if not active:
        return DistillTerms(None, {})
    latent = student.encoder(batch.points)
    terms = {name: teacher_terms(student, name, latent, batch, teachers[name]) for name in active}
    total = torch.stack([weights[name] * term.loss for name, term in terms.items()]).sum()
    return DistillTerms(total, terms)


def teacher_terms(student: Student, name: str, latent: Tensor, batch: Batch, settings: TeacherSettings) -> MatchTerms:
    """Matching terms of one teacher; only rows with a target go through its projector."""
    target = batch.targets[name]
    predicted = student.project(name, take_rows(latent, target.rows))
    return match_loss(
        predicted,
        target.values,
        evidence_weight(target.weight, settings.evidence_half),
        l1=settings.l1,
        l2=settings.l2,
        beta=settings.beta,
        offset=student.basis(name).offset() if settings.cosine_space == "teacher" else None,
    )


def take_rows(values: Tensor, rows: Tensor) -> Tensor:
    """values[rows] for distinct rows, with a backward pass that copies.

    Indexing's own backward pass adds, on several threads in no fixed order; for distinct rows a copy is the same sum,
    and reproducible.
    """
    return values if len(rows) == len(values) else _TakeRows.apply(values, rows)


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.size = len(values)
        return values.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return grad.new_zeros(ctx.size, *grad.shape[1:]).index_copy_(0, rows, grad), None
