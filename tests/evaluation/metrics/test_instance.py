from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from chorus_common.labels import SCANNET20, SCANNET20_NYU40_IDS
from evaluation.metrics import masks as module
from evaluation.metrics.instance import OVERLAPS, InstanceEvaluator, from_official_ids
from evaluation.metrics.masks import PackedMasks
from evaluation.metrics.semantic import MetricError
from tests.evaluation.metrics.official_twins import instance_ap

DATA = Path(__file__).parents[2] / "data"
CLASS_IDS = (3, 4, 7)


def evaluate(scenes: list[Any], form: str = "indices", min_region: int = 100) -> np.ndarray:
    evaluator = InstanceEvaluator([str(c) for c in CLASS_IDS], min_region_size=min_region)
    to_class = {c: i for i, c in enumerate(CLASS_IDS)}
    for gt_ids, preds in scenes:
        dense = np.array([m for m, _, _ in preds]).reshape(len(preds), len(gt_ids))
        masks: Any = {
            "dense": lambda d=dense: d,
            "indices": lambda d=dense: [np.flatnonzero(row) for row in d],
            "packed": lambda d=dense: PackedMasks(np.packbits(d.astype(bool), axis=1), d.shape[1]),
            "csr": lambda d=dense: sparse.csr_matrix(d),
            "coo": lambda d=dense: sparse.coo_matrix(d),
        }[form]()
        labels, instances = from_official_ids(gt_ids, CLASS_IDS)
        evaluator.add(masks, [to_class.get(c, -1) for _, c, _ in preds], [s for _, _, s in preds], labels, instances)
    return evaluator.average_precision().ap


@st.composite
def scenes(draw: st.DrawFn) -> list[Any]:
    """Scenes of runs of vertices: ground truths and masks are intervals, so that nesting, duplicates, ties and
    near-threshold overlaps are common.
    """
    result = []
    for _ in range(draw(st.integers(1, 3))):
        n = draw(st.integers(0, 60))
        bounds = sorted(draw(st.lists(st.integers(0, n), max_size=6)))
        gt_ids = np.zeros(n, dtype=np.int64)
        for i, (a, b) in enumerate(zip([0, *bounds], [*bounds, n])):
            c = draw(st.sampled_from([0, 1, *CLASS_IDS]))
            same = draw(st.integers(0, i)) if draw(st.booleans()) else i  # now and then two runs are one instance
            gt_ids[a:b] = c * 1000 + same + 1 if c else 0
        preds = []
        for _ in range(draw(st.integers(0, 6))):
            if preds and draw(st.integers(0, 3)) == 0:
                mask = preds[draw(st.integers(0, len(preds) - 1))][0]
            elif bounds and draw(st.booleans()):
                i = draw(st.integers(0, len(bounds)))
                a, b = [0, *bounds][i], [*bounds, n][i]
                mask = np.zeros(n, bool)
                mask[max(0, a - draw(st.integers(0, 3))) : b + draw(st.integers(-2, 3))] = True
            else:
                a, b = sorted((draw(st.integers(0, n)), draw(st.integers(0, n))))
                mask = np.zeros(n, bool)
                mask[a:b] = True
            preds.append(
                (mask, draw(st.sampled_from([*CLASS_IDS, 3, 3, 99])), draw(st.sampled_from([0.1, 0.5, 0.5, 0.9])))
            )
        result.append((gt_ids, preds))
    return result


@given(scenes(), st.sampled_from(["dense", "indices", "packed", "csr", "coo"]), st.sampled_from([1, 5, 8]))
@settings(max_examples=400, deadline=None)
def test_ap_equals_the_official_algorithm(case: list[Any], form: str, min_region: int) -> None:
    expected = instance_ap(case, CLASS_IDS, OVERLAPS, min_region)
    np.testing.assert_allclose(evaluate(case, form, min_region), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", [1, 2, 3])
def test_golden_scannet_ap(case: int) -> None:
    golden = np.load(DATA / f"metrics_case{case}.npz")
    ids, names = SCANNET20_NYU40_IDS[2:], SCANNET20[2:]
    evaluator = InstanceEvaluator(names)
    for scan in range(int(golden["n_scans"])):
        gt_ids = golden[f"scan{scan}/gt_ids"]
        bits = golden[f"scan{scan}/pred_masks"]
        official = [int(golden[f"scan{scan}/pred{j}_label"]) for j in range(len(bits))]
        labels, instances = from_official_ids(gt_ids, ids)
        evaluator.add(
            PackedMasks(bits, len(gt_ids)),
            [ids.index(c) if c in ids else -1 for c in official],
            [float(golden[f"scan{scan}/pred{j}_conf"]) for j in range(len(bits))],
            labels,
            instances,
        )
    scores = evaluator.average_precision()
    rows = json.loads(str(golden["official_instance"]))
    assert [r[1] for r in rows] == list(ids)
    expected = np.array([[float(v) for v in r[2:]] for r in rows])
    np.testing.assert_allclose(scores.per_class, expected, rtol=0, atol=1e-9)


def square(n: int, *runs: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(n, bool)
    for a, b in runs:
        mask[a:b] = True
    return mask


def test_perfect_void_small_and_duplicate_by_hand() -> None:
    n = 1000
    gt = np.zeros(n, np.int64)
    gt[0:200], gt[200:400], gt[400:450] = 3001, 3002, 3003  # the third is under 100 vertices
    perfect = [(square(n, (0, 200)), 3, 0.9), (square(n, (200, 400)), 3, 0.8)]
    assert evaluate([(gt, perfect)])[0].tolist() == pytest.approx([1.0] * 10)
    # Mostly void, or mostly a small instance: neither right nor wrong.
    ignored = [*perfect, (square(n, (500, 900)), 3, 0.99), (square(n, (400, 450), (450, 500)), 3, 0.99)]
    assert evaluate([(gt, ignored)])[0].tolist() == pytest.approx([1.0] * 10)
    # A duplicate of the first instance is a false positive below the two hits.
    late = [*perfect, (square(n, (0, 200)), 3, 0.1)]
    assert evaluate([(gt, late)])[0, 0] == pytest.approx(evaluate([(gt, perfect)])[0, 0])
    early = [*perfect, (square(n, (0, 200)), 3, 0.85)]
    assert evaluate([(gt, early)])[0, 0] < 1
    # Ground truth without any prediction of the class: 0; class without ground truth: NaN.
    assert evaluate([(gt, [])])[0, 0] == 0
    assert np.isnan(evaluate([(gt, perfect)])[1:]).all()


def test_memory_passes_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    gt = np.repeat(rng.choice([0, 3001, 3002, 4001, 7001], 20), 30)
    preds = [(rng.random(600) < 0.4, int(rng.choice(CLASS_IDS)), float(rng.random())) for _ in range(17)]
    whole = {form: evaluate([(gt, preds)], form) for form in ("indices", "csr", "packed")}
    monkeypatch.setattr(module, "_TABLE_CELLS", 11)
    monkeypatch.setattr(module, "_PASS_INDICES", 500)
    for form, expected in whole.items():
        np.testing.assert_array_equal(expected, evaluate([(gt, preds)], form))


def test_huge_instance_ids_are_ranked() -> None:
    labels = np.array([1] * 150 + [0] * 150)
    ids = np.array([2**62 + 1] * 150 + [2**62] * 150)
    evaluator = InstanceEvaluator(["a", "b"]).add([np.arange(150)], [1], [1.0], labels, ids)
    assert evaluator.average_precision().per_class.tolist() == [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]


def test_bad_input_is_named() -> None:
    labels, ids = np.zeros(10, np.int64), np.zeros(10, np.int64)

    def add(masks: Any, classes: list[int], scores: list[float]) -> None:
        InstanceEvaluator(["a"], min_region_size=1).add(masks, classes, scores, labels, ids, who="room_7")

    for masks, classes, scores, message in (
        ([np.array([10])], [0], [1.0], "index outside"),
        ([np.array([-1])], [0], [1.0], "index outside"),
        ([np.array([1, 1])], [0], [1.0], "lists a vertex twice"),
        ([np.array([1])], [0], [float("nan")], "is NaN"),
        ([np.array([1])], [0, 0], [1.0, 1.0], "1 masks for 2 predicted classes"),
        ([np.array([1]), np.array([2])], [0], [1.0], "more masks"),
        ([np.array([1])], [0], [1.0, 2.0], "1 predicted classes and 2 scores"),
        (np.ones((1, 9), bool), [0], [1.0], "9 vertices, the ground truth 10"),
        (sparse.csr_matrix(np.ones((1, 9))), [0], [1.0], "9 vertices, the ground truth 10"),
        (PackedMasks(np.zeros((1, 2), np.uint8), 9), [0], [1.0], "9 vertices, the ground truth 10"),
        ([np.array([1.5])], [0], [1.0], "1-D integer array"),
    ):
        with pytest.raises(MetricError, match=message) as caught:
            add(masks, classes, scores)
        assert "room_7" in str(caught.value)


def test_sparse_masks_with_stored_zeros_and_duplicates_are_sets() -> None:
    gt = np.zeros(300, np.int64)
    gt[:150] = 3001
    rows, columns = np.zeros(301, np.int64), np.concatenate([np.arange(150), np.arange(150), [200]])
    data = np.concatenate([np.ones(300), [0.0]])  # every vertex twice, and one that is stored but not in the mask
    labels, instances = from_official_ids(gt, CLASS_IDS)
    masks = sparse.coo_matrix((data, (rows, columns)), shape=(1, 300)).tocsr()
    masks.data[-1] = 0.0
    for form in (masks, sparse.coo_matrix((data, (rows, columns)), shape=(1, 300))):
        evaluator = InstanceEvaluator([str(c) for c in CLASS_IDS]).add(form, [0], [1.0], labels, instances)
        assert evaluator.average_precision().per_class[0].tolist() == [1.0, 1.0, 1.0]
