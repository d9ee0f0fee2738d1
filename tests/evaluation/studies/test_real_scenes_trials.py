"""Crops, masks and heads of the study of real scans: each against a slow twin, and the programs on made-up scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.labels import SPACES
from chorus_common.lifting import CellGrid, CellHits
from chorus_common.runtime.errors import ChorusError
from chorus_common.text.conse_text import class_names
from evaluation.results import read_result
from evaluation.studies.jobs import run_jobs
from evaluation.studies.real_scenes import crop_trials, head_trials, mask_trials
from evaluation.studies.real_scenes.conse_trials import VARIANTS, Texts
from evaluation.studies.real_scenes.crop_trials import accuracies, paired_by_hand
from evaluation.studies.real_scenes.head_trials import cosines, fit_head
from evaluation.studies.real_scenes.mask_cells import paint_masks, pool_under_masks
from evaluation.studies.real_scenes.object_crops import SIDE, blur, classify, crop, instances_in_view
from evaluation.studies.real_scenes.plan import CLASSICAL, DENSE, TEXT, Study, plan
from tests.evaluation.studies.test_real_scenes_study import scan_tables


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_pixel_belongs_to_the_instance_with_most_weight(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = CellGrid(5, 3, 1)
    instances = rng.integers(-1, 3, 12).astype(np.int32)
    pairs = np.flatnonzero(rng.random(grid.cells * 12) < 0.2)
    weights = rng.integers(1, 4, len(pairs)).astype(np.float32)  # whole numbers: there are equals
    ids = instances_in_view(
        CellHits((pairs // 12).astype(np.int32), (pairs % 12).astype(np.int32), weights), instances, grid
    )
    for pixel in range(grid.cells):
        total = dict.fromkeys(range(-1, 3), 0.0)
        for pair, weight in zip(pairs, weights):
            if pair // 12 == pixel:
                total[int(instances[pair % 12])] += float(weight)
        best = max(total.values())
        expected = min(i for i, weight in total.items() if weight == best) if best else -1
        assert ids.reshape(-1)[pixel] == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_masks_are_pooled_and_painted_pixel_by_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = CellGrid(11, 7, 4)  # partial cells
    ids = rng.integers(-1, 3, (7, 11)).astype(np.int32)
    ids[0, :3] = range(3)
    features = rng.standard_normal((grid.cells, 5)).astype(np.float32)
    of_masks = rng.standard_normal((3, 5)).astype(np.float32)
    cell = lambda r, c: (r // 4) * grid.cols + c // 4  # noqa: E731
    under: list[list[np.ndarray]] = [[], [], []]
    inside: list[list[np.ndarray]] = [[] for _ in range(grid.cells)]
    for r in range(7):
        for c in range(11):
            mask = ids[r, c]
            if mask >= 0:
                under[mask].append(features[cell(r, c)])
            inside[cell(r, c)].append(of_masks[mask] if mask >= 0 else features[cell(r, c)])
    np.testing.assert_allclose(pool_under_masks(ids, features, grid), [np.mean(u, axis=0) for u in under], atol=1e-5)
    painted = paint_masks(ids, of_masks, features, grid)
    np.testing.assert_allclose(painted, [np.mean(i, axis=0) for i in inside], atol=1e-5)
    bare = np.full_like(ids, -1)
    np.testing.assert_allclose(paint_masks(bare, np.zeros((0, 5), np.float32), features, grid), features, rtol=1e-6)


def test_crops_hold_the_object_and_what_is_asked_for_around_it() -> None:
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    image[..., 2] = 90
    mask = np.zeros((60, 80), dtype=bool)
    mask[20:40, 30:50] = True
    image[mask] = (200, 10, 10)
    soft = blur(image)
    tight = crop(image, mask, 1.0, "kept", soft)
    assert tight.shape == (SIDE, SIDE, 3)
    assert (tight == (200, 10, 10)).all()
    wide = crop(image, mask, 2.0, "kept", soft)
    assert (wide[:40] == (0, 0, 90)).all()
    assert (wide[SIDE // 2] == wide[SIDE // 2 - 1]).all()
    assert (crop(image, mask, 2.0, "mean", soft) == (200, 10, 10)).all()
    beside = crop(image, mask, 2.0, "blurred", soft)[SIDE // 2, SIDE // 5]  # two pixels from the object
    assert 0 < beside[0] < 100  # its red, spread out
    edge = np.zeros_like(mask)
    edge[:10, :40] = True  # the square reaches 15 pixels beyond the picture's upper edge
    image[0] = (7, 7, 7)
    above = crop(image, edge, 1.0, "kept", soft)
    assert (above[: SIDE // 4] == 7).all()
    assert (crop(image, edge, 1.0, "mean", soft)[0, 0] == np.rint(image[edge].mean(axis=0))).all()


def test_accuracies_by_hand() -> None:
    """Three views of two chairs (class 0) and one of a table (class 2); one chair is right in one view of two, and
    together.
    """
    scores = np.array([[3, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
    classes, instances = np.array([0, 0, 0, 2]), [("a", 1), ("a", 1), ("b", 1), ("a", 2)]
    found = accuracies(scores, classes, instances)
    assert found["accuracy"] == 0.5
    assert found["mean_class_accuracy"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["objects_mean_class_accuracy"] == pytest.approx((1 / 2 + 1) / 2)


def test_names_paired_by_hand_are_imagenets() -> None:
    space = SPACES["scannet20"]
    things = [space.names[k] for k in space.things]
    first = [synonyms[0] for synonyms in class_names()]
    logits = np.zeros((2, 1000), dtype=np.float32)
    logits[0, first.index("studio couch")], logits[1, first.index("toilet seat")] = 9, 9
    logits[:, first.index("Egyptian cat")] = 99
    scores = paired_by_hand(things)(logits, None)  # type: ignore[arg-type]
    assert [things[k] for k in scores.argmax(axis=1)] == ["sofa", "toilet"]
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_a_view_without_masks_has_no_scores() -> None:
    texts = Texts(np.eye(1000, 4, dtype=np.float32), np.ones(1000, np.float32), np.eye(4, dtype=np.float32)[:3])
    assert mask_trials.asked(np.zeros((0, 1000), np.float32), mask_trials.RULES[0], texts).shape == (0, 3)
    assert mask_trials.asked(np.zeros((2, 5, 1000), np.float32), mask_trials.RULES[0], texts).shape == (2, 5, 3)


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_head_finds_the_names_of_what_can_be_told_apart(hidden: int) -> None:
    rng = np.random.default_rng(0)
    queries = np.eye(6, dtype=np.float32)[:4]
    labels = rng.integers(0, 3, 300)  # the fourth class is never seen
    features = (3 * np.eye(5)[labels] + rng.standard_normal((300, 5))).astype(np.float32)
    head = fit_head(features, labels, queries, hidden, 400, 0)
    with torch.inference_mode():
        found = cosines(head(torch.from_numpy(features)), torch.from_numpy(queries)).argmax(dim=1).numpy()
    assert (found == labels).mean() > 0.85
    again = fit_head(features, labels, queries, hidden, 400, 0)
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters()))


def test_a_classifier_that_fails_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHORUS_REAL_TEACHERS", str(tmp_path))
    with pytest.raises(ChorusError, match="classifier of crops failed"):
        classify([np.zeros((SIDE, SIDE, 3), np.uint8)])


def test_the_trials_go_through_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans and rooms in the study's own stores, embedded teachers in the place of the real ones, and a classifier
    that draws its answers.
    """
    for module in ("plan", "crop_trials", "mask_trials"):
        monkeypatch.setattr(f"evaluation.studies.real_scenes.{module}.FINE_BACKBONE", DENSE)
    monkeypatch.setattr("evaluation.studies.real_scenes.plan.CROPPED", (TEXT, DENSE, CLASSICAL))
    monkeypatch.setattr("evaluation.studies.real_scenes.plan.HEADS", (DENSE, TEXT))
    monkeypatch.setattr(head_trials, "TEACHERS", (DENSE, TEXT))
    monkeypatch.setattr(head_trials, "SOURCES", {"dense": (DENSE,), "embedded:text": (TEXT,)})
    monkeypatch.setattr(head_trials, "AVERAGES", {"mean": ("dense", "embedded:text")})
    monkeypatch.setattr(mask_trials, "SAM_MASKS", CLASSICAL)
    monkeypatch.setattr(crop_trials, "SMALLEST", 60)
    monkeypatch.setattr(crop_trials, "BOXES", crop_trials.BOXES[:3])
    release = scan_tables(tmp_path / "root", {"train": ("a_00",), "val": ("b_00",)})
    small = ("width=96", "height=64", "cell=8", "calibration.tokens=8", "calibration.scenes=1")
    study = Study(
        tmp_path / "root", tmp_path / "out", ("crops", "heads"), release, 2, 2, 2, 20, 1, small, learned=(TEXT, DENSE)
    )
    jobs = {job.name: job for job in plan(study)}
    made = [job for name, job in jobs.items() if not name.endswith("_trials")]
    assert run_jobs(made, study.out / "logs", workers=2, minutes=10).left == 0

    rng = np.random.default_rng(0)
    names = rng.standard_normal((1000, 8)).astype(np.float32)
    lengths = np.linalg.norm(names, axis=1)
    texts = Texts(names / lengths[:, None], lengths, rng.standard_normal((20, 8)).astype(np.float32))
    for module in (crop_trials, mask_trials):
        monkeypatch.setattr(module, "read_texts", lambda class_names: texts)
        monkeypatch.setattr(module, "read_head", lambda: (head_of(rng, study), np.zeros(1000, np.float32)))
        monkeypatch.setattr(
            module, "classify", lambda crops: rng.standard_normal((len(crops), 1000)).astype(np.float32)
        )

    def invoke(command, name: str, *more: str) -> dict:
        job = jobs[name]
        called = CliRunner().invoke(command, [*job.commands[0][3:], *more], standalone_mode=False)
        assert called.exception is None, called.exception
        return read_result(job.results[0])

    cut = invoke(crop_trials.command, "crop_trials")
    boxes = len(crop_trials.BOXES) + len(crop_trials.DRAWN) * len(crop_trials.FEW_BOXES)
    assert len(cut["rows"]) == (boxes + 1) * (len(VARIANTS) + 1) + 2
    assert cut["objects"] > 0
    painted = invoke(mask_trials.command, "mask_trials")
    assert len(painted["rows"]) == 2 * (len(mask_trials.RULES) * (1 + 3 * 4) + 1 + 4)
    fitted = invoke(head_trials.command, "head_trials", "--steps", "3", "--seeds", "1")
    assert len(fitted["rows"]) == 3 * len(head_trials.HEADS) * len(head_trials.STATISTICS) + 2
    for rows in (painted["rows"], fitted["rows"]):
        assert all(0 <= row["miou"] <= 1 and 0 <= row["auc"] <= 1 for row in rows.values())


def head_of(rng: np.random.Generator, study: Study) -> np.ndarray:
    """A classifier's weights for the features that stand in the place of the backbone's."""
    fitted = PhiSStandardiser.load(study.out / "cache-crops" / "standardisers" / f"{DENSE.name}.safetensors")
    return rng.standard_normal((1000, len(fitted.mean))).astype(np.float32)
