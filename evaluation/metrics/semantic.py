"""Semantic segmentation: one confusion matrix, one definition of every metric, published variants under their own
names.

The matrix has a row per class of the ground truth and a column per class of the prediction, plus a last column for "no
prediction". Points without ground truth are left out of it; points without a prediction stay in and cost their class a
false negative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chorus_common.labels import FOREGROUND_EXCLUDED
from chorus_common.runtime.errors import ChorusError

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


class MetricError(ChorusError):
    """Predictions and ground truth that cannot be compared."""


@njit(cache=True, nogil=True)
def _count(truth, prediction, counts):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Add every (truth, prediction) pair to `counts` [K, K + 1]; returns the first row out of range, or -1.

    A single pass: nothing of the size of the scene is allocated, whatever the number of classes.
    """
    k = counts.shape[0]
    for i in range(truth.shape[0]):
        t, p = truth[i], prediction[i]
        if t < -1 or t >= k or p < -1 or p >= k:
            return i
        if t >= 0:
            counts[t, p if p >= 0 else k] += 1
    return -1


@dataclass(frozen=True)
class Scores:
    """The metrics of one definition.

    Attributes:
        iou, accuracy: [K] f64, NaN where the definition leaves the class out of its means.
        foreground: [K] bool, the classes of the f- means.
        overall_accuracy: share of the points that are right.
    """

    definition: str
    class_names: tuple[str, ...]
    iou: F64
    accuracy: F64
    foreground: NDArray[np.bool_]
    overall_accuracy: float
    groups: Mapping[str, I64] = field(default_factory=dict)

    @property
    def miou(self) -> float:
        return _mean(self.iou)

    @property
    def macc(self) -> float:
        return _mean(self.accuracy)

    @property
    def f_miou(self) -> float:
        return _mean(self.iou[self.foreground])

    @property
    def f_macc(self) -> float:
        return _mean(self.accuracy[self.foreground])

    def as_dict(self) -> dict[str, object]:
        """The means and the per-class values as plain Python; NaN becomes None, which JSON can carry."""
        return {
            "definition": self.definition,
            "miou": _plain(self.miou),
            "macc": _plain(self.macc),
            "f_miou": _plain(self.f_miou),
            "f_macc": _plain(self.f_macc),
            "overall_accuracy": _plain(self.overall_accuracy),
            "n_classes": int(np.isfinite(self.iou).sum()),
            "groups": {
                name: {"miou": _plain(_mean(self.iou[rows])), "macc": _plain(_mean(self.accuracy[rows]))}
                for name, rows in self.groups.items()
            },
            "per_class": {
                name: {"iou": _plain(float(i)), "acc": _plain(float(a))}
                for name, i, a in zip(self.class_names, self.iou, self.accuracy)
            },
        }


class ConfusionMatrix:
    """Counts of (truth, prediction) over any number of scenes; mergeable, exact, K x (K + 1) integers of memory.

    Args:
        class_names: K distinct names; a class index is a position in it.
        excluded: names that the foreground means (f-mIoU, f-mAcc) leave out. They stay in the data and in the label
            set: a chair called wall is still a false negative of chair. Names that are not in `class_names` are ignored
                (ScanNet20 has no ceiling).
        groups: name -> class names, e.g. head, common, tail of ScanNet200; each gets its own means.

    >>> matrix = ConfusionMatrix(("chair", "table"))
    >>> scores = matrix.add(np.array([0, 0, 1, -1]), np.array([0, 1, 1, 0])).scores()
    >>> scores.iou  # the point without ground truth does not count
    array([0.5, 0.5])
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        excluded: Sequence[str] = FOREGROUND_EXCLUDED,
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.class_names = tuple(class_names)
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise MetricError("confusion matrix: class names must be distinct and at least one")
        index = {name: i for i, name in enumerate(self.class_names)}
        self.foreground = np.array([name not in set(excluded) for name in self.class_names])
        self.groups: dict[str, I64] = {}
        for group, names in (groups or {}).items():
            unknown = [name for name in names if name not in index]
            if unknown:
                raise MetricError(f"class group {group}: unknown class '{unknown[0]}'")
            self.groups[group] = np.array([index[name] for name in names], dtype=np.int64)
        self.counts: I64 = np.zeros((len(index), len(index) + 1), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.class_names)

    def add(
        self, truth: NDArray[np.integer], prediction: NDArray[np.integer], *, who: str = "scene"
    ) -> ConfusionMatrix:
        """Count one scene. Both [N] integer class indices; -1 = no ground truth, or no prediction.

        Raises MetricError naming `who` when the lengths differ or an index lies outside [-1, K).
        """
        truth, prediction = np.asarray(truth), np.asarray(prediction)
        if truth.ndim != 1 or truth.shape != prediction.shape:
            raise MetricError(
                f"{who}: ground truth has shape {truth.shape} and the prediction {prediction.shape}; both must be [N]"
            )
        if not (np.issubdtype(truth.dtype, np.integer) and np.issubdtype(prediction.dtype, np.integer)):
            raise MetricError(f"{who}: class indices must be integers, found {truth.dtype} and {prediction.dtype}")
        scene = np.zeros_like(self.counts)
        bad = _count(_compiled_dtype(truth), _compiled_dtype(prediction), scene)
        if bad >= 0:
            k = len(self)
            what, value = ("ground truth", truth[bad]) if not -1 <= truth[bad] < k else ("prediction", prediction[bad])
            raise MetricError(f"{who}: {what} {int(value)} at point {bad} is outside the label space of {k} classes")
        self.counts += scene
        return self

    def merge(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Add the counts of `other`, which must have the same classes."""
        if other.class_names != self.class_names:
            raise MetricError("confusion matrices of different label spaces cannot be merged")
        self.counts += other.counts
        return self

    # Margins. Predictions of a class on points without ground truth are nobody's false positives.
    @property
    def truth(self) -> I64:
        """[K] points per class of the ground truth."""
        return self.counts.sum(axis=1)

    @property
    def predicted(self) -> I64:
        """[K] points per predicted class."""
        return self.counts[:, :-1].sum(axis=0)

    @property
    def correct(self) -> I64:
        return np.diagonal(self.counts).copy()

    @property
    def unpredicted(self) -> I64:
        """[K] points per class of the ground truth that have no prediction."""
        return self.counts[:, -1].copy()

    def scores(self, definition: str = "chorus") -> Scores:
        """All metrics under the definition of that name (see DEFINITIONS)."""
        try:
            rule = DEFINITIONS[definition]
        except KeyError:
            raise MetricError(f"unknown metric definition '{definition}'; known: {', '.join(DEFINITIONS)}") from None
        iou, accuracy, overall = rule(self)
        foreground = self.foreground
        if definition in WITHOUT_OTHER:
            foreground = foreground & np.array(["other" not in name.lower() for name in self.class_names])
        return Scores(definition, self.class_names, iou, accuracy, foreground, overall, self.groups)

    def as_dict(self) -> dict[str, object]:
        """The matrix as plain Python: class names and rows of counts, last column = no prediction."""
        return {
            "class_names": list(self.class_names),
            "columns": "classes, then no prediction",
            "counts": self.counts.tolist(),
        }


def _iou(matrix: ConfusionMatrix) -> F64:
    return _ratio(matrix.correct, matrix.truth + matrix.predicted - matrix.correct)


def chorus(matrix: ConfusionMatrix) -> tuple[F64, F64, float]:
    """Ours: means over the classes that the ground truth holds; a point without prediction is wrong in IoU and in
    accuracy.
    """
    present = matrix.truth > 0
    return (
        np.where(present, _iou(matrix), np.nan),
        np.where(present, _ratio(matrix.correct, matrix.truth), np.nan),
        _share(matrix.correct, matrix.truth),
    )


def scannet(matrix: ConfusionMatrix) -> tuple[F64, F64, float]:
    """ScanNet BenchmarkScripts evaluate_semantic_label.py (`get_iou`): NaN only where neither truth nor prediction has
    the class.
    """
    return _iou(matrix), _ratio(matrix.correct, matrix.truth), _share(matrix.correct, matrix.truth)


def scenesplat_hook(matrix: ConfusionMatrix) -> tuple[F64, F64, float]:
    """SceneSplat zero-shot hook (pointcept/engines/hooks/evaluator.py): as ours, but points without prediction are not
    in the accuracy.
    """
    present = matrix.truth > 0
    answered = matrix.truth - matrix.unpredicted
    # A class whose points all lack a prediction has accuracy 0 there, not NaN: it is present.
    accuracy = np.where(answered > 0, _ratio(matrix.correct, answered), 0.0)
    return (
        np.where(present, _iou(matrix), np.nan),
        np.where(present, accuracy, np.nan),
        _share(matrix.correct, answered),
    )


def scenesplat_tester(matrix: ConfusionMatrix) -> tuple[F64, F64, float]:
    """SceneSplat zero-shot tester (pointcept/engines/test.py): IoU over classes with a union (one only predicted counts
    0), accuracy over classes with ground truth, full denominators."""
    return scannet(matrix)


def chorus_release(matrix: ConfusionMatrix) -> tuple[F64, F64, float]:
    """The released Chorus (GaussianWorld/Chorus, its zero-shot evaluation): a class counts where it occurs; ignored
    points are misses in the IoU and not in the accuracy. Its foreground also leaves out every name with "other" in it.

    The release ignores points whose best sigmoid of a cosine is below 0.1. No sigmoid of a cosine is below 0.26, so
    none is ignored for that; points without a feature are.
    """
    return scenesplat_hook(matrix)


def pointcept_tester(matrix: ConfusionMatrix) -> tuple[F64, F64, float]:
    """Pointcept SemSegTester (pointcept/engines/test.py): plain mean over all K classes, I / (U + 1e-10), so an absent
    class counts 0.
    """
    union = matrix.truth + matrix.predicted - matrix.correct
    return (
        matrix.correct / (union + 1e-10),
        matrix.correct / (matrix.truth + 1e-10),
        float(matrix.correct.sum() / (matrix.truth.sum() + 1e-10)),
    )


#: definition name -> (IoU [K], accuracy [K], overall accuracy); NaN = left out of the means
DEFINITIONS: dict[str, Callable[[ConfusionMatrix], tuple[F64, F64, float]]] = {
    "chorus": chorus,
    "chorus_release": chorus_release,
    "scannet": scannet,
    "scenesplat_hook": scenesplat_hook,
    "scenesplat_tester": scenesplat_tester,
    "pointcept_tester": pointcept_tester,
}
#: Definitions whose foreground leaves out "other furniture" and the like, beside the excluded names.
WITHOUT_OTHER = ("chorus_release",)


def _compiled_dtype(ids: NDArray[np.integer]) -> NDArray[np.integer]:
    """The ids in a form that the counting kernel takes without a new compilation per odd dtype; int32 and int64 pass
    untouched.
    """
    if ids.dtype in (np.dtype(np.int32), np.dtype(np.int64)):
        return np.ascontiguousarray(ids)
    if ids.dtype.kind == "u" and ids.size and int(ids.max()) > np.iinfo(np.int64).max:
        return np.where(ids > np.iinfo(np.int64).max, np.iinfo(np.int64).max, ids).astype(
            np.int64
        )  # out of range either way
    return np.ascontiguousarray(ids, dtype=np.int64)


def _ratio(numerator: NDArray[np.integer], denominator: NDArray[np.integer]) -> F64:
    result = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _share(numerator: NDArray[np.integer], denominator: NDArray[np.integer]) -> float:
    total = int(denominator.sum())
    return float(numerator.sum() / total) if total else float("nan")


def _mean(values: F64) -> float:
    """Mean of the values that are not NaN; NaN without a warning where there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
