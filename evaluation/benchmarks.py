"""What the benchmarks say beside their class names: groups of classes, and which are no things."""

from __future__ import annotations

from chorus_common.labels import LABEL_SPACES

#: Classes that instance benchmarks do not ask for: ScanNet BenchmarkScripts/3d_evaluation/
#: evaluate_semantic_instance.py for 20 classes (18 left) and its ScanNet200 version (198 left); S3DIS asks for all 13.
_STUFF = {"scannet20": ("wall", "floor"), "scannet200": ("wall", "floor"), "s3dis13": ()}

#: Spaces without a rule of their own.
_STUFF_ELSEWHERE = ("wall", "floor", "ceiling")


def class_groups(label_space: str) -> dict[str, tuple[str, ...]]:
    """Group -> class names, where the label space has groups."""
    return {}


def thing_classes(label_space: str) -> tuple[int, ...]:
    """Class indices that instance segmentation evaluates, ascending."""
    stuff = _STUFF.get(label_space, _STUFF_ELSEWHERE)
    return tuple(i for i, name in enumerate(LABEL_SPACES[label_space]) if name not in stuff)
