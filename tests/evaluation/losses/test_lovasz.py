from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.losses.lovasz import jaccard_steps, lovasz_softmax


def jaccard_loss(truth: set[int], wrong: set[int]) -> float:
    """1 - IoU of a class whose truth is `truth`, when exactly the points `wrong` are predicted wrongly."""
    predicted = truth.symmetric_difference(wrong)
    union = truth | predicted
    return 1 - len(truth & predicted) / len(union) if union else 0.0


def slow_lovasz(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """The Lovász extension by its definition: errors from the largest down, times what the set function gains."""
    rows = [i for i in range(len(labels)) if labels[i] >= 0]
    classes = sorted({int(labels[i]) for i in rows})
    losses = []
    for c in classes:
        truth = {i for i in rows if labels[i] == c}
        errors = {i: abs(float(i in truth) - float(probabilities[i, c])) for i in rows}
        wrong: set[int] = set()
        loss = 0.0
        for i in sorted(rows, key=lambda i: -errors[i]):
            before = jaccard_loss(truth, wrong)
            wrong = wrong | {i}
            loss += errors[i] * (jaccard_loss(truth, wrong) - before)
        losses.append(loss)
    return sum(losses) / len(losses) if losses else 0.0


@given(st.integers(0, 10_000), st.integers(1, 25), st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_equals_the_definition(seed: int, n: int, k: int) -> None:
    g = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(n, k, generator=g, dtype=torch.float64).softmax(1)
    labels = torch.randint(-1, k, (n,), generator=g)
    assert float(lovasz_softmax(probabilities, labels)) == pytest.approx(slow_lovasz(probabilities, labels), abs=1e-12)


def test_gradient() -> None:
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(12, 4, generator=g, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 2, -1, 1, 0, 0, 2, 1, -1, 2])
    assert torch.autograd.gradcheck(lambda x: lovasz_softmax(x.softmax(1), labels), (logits,))


def test_bounds_and_what_does_not_matter() -> None:
    labels = torch.tensor([0, 0, 1, 2, 2, -1])
    right = torch.nn.functional.one_hot(labels.clamp(min=0), 4).double()
    assert float(lovasz_softmax(right, labels)) == 0.0
    wrong = torch.nn.functional.one_hot((labels.clamp(min=0) + 1) % 4, 4).double()
    assert float(lovasz_softmax(wrong, labels)) == pytest.approx(1.0)
    some = torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(1)
    order = torch.tensor([4, 1, 0, 5, 3, 2])
    assert float(lovasz_softmax(some[order], labels[order])) == pytest.approx(float(lovasz_softmax(some, labels)))
    other = some.clone()
    other[5] = 0.25  # the row without a label
    assert torch.equal(lovasz_softmax(other, labels), lovasz_softmax(some, labels))


def test_on_hard_predictions_it_is_the_jaccard_loss() -> None:
    g = torch.Generator().manual_seed(1)
    labels, predicted = torch.randint(0, 3, (40,), generator=g), torch.randint(0, 3, (40,), generator=g)
    hard = torch.nn.functional.one_hot(predicted, 3).double()
    ious = [((labels == c) & (predicted == c)).sum() / ((labels == c) | (predicted == c)).sum() for c in range(3)]
    assert float(lovasz_softmax(hard, labels)) == pytest.approx(1 - float(torch.stack(ious).double().mean()), abs=1e-6)


def test_without_labels_there_is_a_gradient_of_zero() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    lovasz_softmax(logits.softmax(1), torch.full((3,), -1)).backward()
    assert torch.equal(logits.grad, torch.zeros(3, 2))


def test_steps_sum_to_the_whole_loss() -> None:
    wanted = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    steps = jaccard_steps(wanted)
    assert float(steps.sum()) == pytest.approx(1.0)
    assert (steps >= 0).all()
