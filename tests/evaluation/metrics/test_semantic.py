from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_common.labels import SCANNET20, SCANNET20_NYU40_IDS
from evaluation.metrics.semantic import DEFINITIONS, ConfusionMatrix, MetricError
from tests.evaluation.metrics.official_twins import class_iou, confusion

DATA = Path(__file__).parents[2] / "data"


def names(k: int) -> list[str]:
    return [f"c{i}" for i in range(k)]


@st.composite
def labelled(draw: st.DrawFn) -> tuple[int, np.ndarray, np.ndarray]:
    k = draw(st.integers(1, 6))
    n = draw(st.integers(0, 60))
    row = st.lists(st.integers(-1, k - 1), min_size=n, max_size=n)
    return k, np.array(draw(row), dtype=np.int64), np.array(draw(row), dtype=np.int64)


@given(labelled(), st.sampled_from([np.int8, np.int16, np.int32, np.int64]))
def test_counts_and_iou_equal_the_plain_loop(case: tuple[int, np.ndarray, np.ndarray], dtype: type) -> None:
    k, truth, prediction = case
    matrix = ConfusionMatrix(names(k)).add(truth.astype(dtype), prediction.astype(dtype))
    np.testing.assert_array_equal(matrix.counts, confusion(truth, prediction, k))
    expected = [class_iou(truth, prediction, c) for c in range(k)]
    np.testing.assert_allclose(matrix.scores("scannet").iou, expected, rtol=0, atol=1e-12)


@given(labelled())
def test_definitions_differ_only_as_documented(case: tuple[int, np.ndarray, np.ndarray]) -> None:
    k, truth, prediction = case
    matrix = ConfusionMatrix(names(k)).add(truth, prediction)
    iou = np.array([class_iou(truth, prediction, c) for c in range(k)])
    present = np.array([(truth == c).any() for c in range(k)])
    right = np.array([((truth == c) & (prediction == c)).sum() for c in range(k)])
    asked = np.array([(truth == c).sum() for c in range(k)])
    answered = np.array([((truth == c) & (prediction >= 0)).sum() for c in range(k)])

    def mean(values: np.ndarray) -> float:
        return float(np.mean(values)) if len(values) else float("nan")

    expected = {
        "chorus": (mean(iou[present]), mean((right / np.maximum(asked, 1))[present])),
        "chorus_release": (mean(iou[present]), mean((right / np.maximum(answered, 1))[present])),
        "scannet": (mean(iou[~np.isnan(iou)]), mean((right / np.maximum(asked, 1))[present])),
        "scenesplat_hook": (mean(iou[present]), mean((right / np.maximum(answered, 1))[present])),
        "scenesplat_tester": (mean(iou[~np.isnan(iou)]), mean((right / np.maximum(asked, 1))[present])),
        "pointcept_tester": (mean(np.nan_to_num(iou)), mean(right / np.maximum(asked, 1))),
    }
    assert set(expected) == set(DEFINITIONS)
    for definition, (miou, macc) in expected.items():
        scores = matrix.scores(definition)
        np.testing.assert_allclose([scores.miou, scores.macc], [miou, macc], rtol=0, atol=1e-9, err_msg=definition)


def test_the_definitions_by_hand() -> None:
    # a: 4 points, 2 right, 1 without prediction, 1 called b. b: none in the truth. c: 2 points, both right. One void
    # point called a.
    truth = np.array([0, 0, 0, 0, 2, 2, -1])
    prediction = np.array([0, 0, -1, 1, 2, 2, 0])
    matrix = ConfusionMatrix(["a", "b", "c", "d"]).add(truth, prediction)
    assert matrix.scores("chorus").miou == pytest.approx((0.5 + 1) / 2)
    assert matrix.scores("chorus").macc == pytest.approx((0.5 + 1) / 2)
    assert matrix.scores("scenesplat_hook").macc == pytest.approx((2 / 3 + 1) / 2)
    assert matrix.scores("scenesplat_tester").miou == pytest.approx((0.5 + 0 + 1) / 3)
    assert matrix.scores("pointcept_tester").miou == pytest.approx((0.5 + 0 + 1 + 0) / 4)
    assert matrix.scores("chorus").overall_accuracy == pytest.approx(4 / 6)


RELEASE_NAMES = ("wall", "floor", "ceiling", "chair", "otherfurniture", "other structure")


@given(st.data())
def test_the_releases_definition_against_a_plain_twin(data: st.DataObject) -> None:
    """Point by point and class by class; a point that is not answered is a miss, and not in the accuracy."""
    n = data.draw(st.integers(1, 40))
    k = len(RELEASE_NAMES)
    rows = st.lists(st.integers(-1, k - 1), min_size=n, max_size=n)
    truth, prediction = data.draw(rows), data.draw(rows)
    ious, accuracies = {}, {}
    for c, name in enumerate(RELEASE_NAMES):
        occurs = right = wrong = asked = answered = 0
        for t, p in zip(truth, prediction):
            if t < 0:
                continue
            occurs += t == c
            right += t == c and p == c
            wrong += t != c and p == c
            asked += t == c
            answered += t == c and p >= 0
        if occurs:
            ious[name] = right / (asked + wrong)
            accuracies[name] = right / answered if answered else 0.0
    small = [name for name in ious if name == "chair"]
    scores = ConfusionMatrix(RELEASE_NAMES).add(np.array(truth), np.array(prediction)).scores("chorus_release")
    for found, values, chosen in (
        (scores.miou, ious, list(ious)), (scores.f_miou, ious, small),
        (scores.macc, accuracies, list(ious)), (scores.f_macc, accuracies, small),
    ):  # fmt: skip
        expected = sum(values[name] for name in chosen) / len(chosen) if chosen else float("nan")
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_ours_keeps_other_furniture_in_the_foreground() -> None:
    truth, prediction = np.array([3, 3, 4, 4]), np.array([3, 3, 3, -1])
    matrix = ConfusionMatrix(RELEASE_NAMES).add(truth, prediction)
    assert matrix.scores().f_miou == pytest.approx((2 / 3 + 0) / 2)
    assert matrix.scores("chorus_release").f_miou == pytest.approx(2 / 3)
    assert matrix.scores("chorus_release").f_macc == 1


def test_foreground_leaves_classes_out_of_the_mean_only() -> None:
    matrix = ConfusionMatrix(["wall", "floor", "chair"]).add(np.array([0, 1, 2, 2]), np.array([0, 1, 2, 0]))
    scores = matrix.scores()
    assert scores.f_miou == pytest.approx(0.5)  # the chair called wall is still missing from chair
    assert scores.miou == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert scores.f_macc == pytest.approx(0.5)


def test_groups_have_their_own_means() -> None:
    matrix = ConfusionMatrix(["a", "b", "c"], groups={"head": ["a"], "tail": ["b", "c"]})
    matrix.add(np.array([0, 1, 1, 2]), np.array([0, 1, 0, 2]))
    groups = matrix.scores().as_dict()["groups"]
    assert groups["head"]["miou"] == pytest.approx(0.5)  # type: ignore[index]
    assert groups["tail"]["miou"] == pytest.approx((0.5 + 1) / 2)  # type: ignore[index]
    with pytest.raises(MetricError, match="unknown class 'z'"):
        ConfusionMatrix(["a"], groups={"head": ["z"]})


@given(labelled(), st.integers(0, 60))
@settings(max_examples=30)
def test_merge_equals_one_pass(case: tuple[int, np.ndarray, np.ndarray], cut: int) -> None:
    k, truth, prediction = case
    whole = ConfusionMatrix(names(k)).add(truth, prediction)
    parts = ConfusionMatrix(names(k)).add(truth[:cut], prediction[:cut])
    parts.merge(ConfusionMatrix(names(k)).add(truth[cut:], prediction[cut:]))
    np.testing.assert_array_equal(whole.counts, parts.counts)


def test_bad_input_is_named() -> None:
    matrix = ConfusionMatrix(names(3))
    with pytest.raises(MetricError, match=r"room_7: ground truth 3 at point 1 is outside the label space of 3 classes"):
        matrix.add(np.array([0, 3]), np.array([0, 0]), who="room_7")
    with pytest.raises(MetricError, match=r"prediction -2 at point 0"):
        matrix.add(np.array([0]), np.array([-2]))
    with pytest.raises(MetricError, match=r"shape \(2,\) and the prediction \(3,\)"):
        matrix.add(np.array([0, 1]), np.array([0, 1, 2]))
    with pytest.raises(MetricError, match="integers"):
        matrix.add(np.array([0.0]), np.array([0]))
    with pytest.raises(MetricError, match="outside"):
        matrix.add(np.array([2**63 + 5], dtype=np.uint64), np.array([0]))
    assert matrix.counts.sum() == 0, "a refused scene leaves nothing behind"
    with pytest.raises(MetricError, match="unknown metric definition 'miou'"):
        matrix.scores("miou")


@pytest.mark.parametrize("case", [1, 2, 3])
def test_golden_scannet_iou(case: int) -> None:
    golden = np.load(DATA / f"metrics_case{case}.npz")
    table = np.full(2000, -1)
    table[list(SCANNET20_NYU40_IDS)] = np.arange(len(SCANNET20))
    matrix = ConfusionMatrix(SCANNET20)
    for scan in range(int(golden["n_scans"])):
        matrix.add(table[golden[f"scan{scan}/gt_ids"] // 1000], table[golden[f"scan{scan}/sem_pred"]])
    expected = json.loads(str(golden["official_semantic_iou"]))
    iou = matrix.scores("scannet").iou
    assert len(expected) == len(SCANNET20)
    for class_id, value in zip(SCANNET20_NYU40_IDS, iou):
        official = expected[str(class_id)]
        assert (official is None and np.isnan(value)) or abs(official - value) < 1e-12
