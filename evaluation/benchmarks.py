"""What a benchmark scores beside its class names, in the forms that the tasks want."""

from __future__ import annotations

from chorus_common.labels import SPACES


def class_groups(label_space: str) -> dict[str, tuple[str, ...]]:
    """Group -> class names (head, common, tail), where the label space has groups; "" has none."""
    if not label_space:
        return {}
    space = SPACES[label_space]
    return {group: tuple(space.names[k] for k in rows) for group, rows in space.groups.items()}


def thing_classes(label_space: str) -> tuple[int, ...]:
    """Class indices that instance segmentation evaluates, ascending."""
    return SPACES[label_space].things
