"""Annotated frames of LERF-OVS and Mip-NeRF360-OVS: one JSON per frame, polygons and boxes per object.

    <folder>/frame_00041.json   {"info": {"name": "frame_00041.jpg", "width": W, "height": H},
                                 "objects": [{"category": "bag", "segmentation": [[x, y], ...],
                                              "bbox": [x0, y0, x1, y1]}]}

Layout as LangSplat and GAGS read it (eval/utils.py, evaluate_iou_loc.py). A frame belongs to the camera of its name,
never to a position in a list, and has a size of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from chorus_common.runtime.config import first_problem
from chorus_common.runtime.errors import SceneError

Bool = NDArray[np.bool_]
#: No photograph is larger; a file that says so is damaged.
Side = Annotated[int, Field(ge=1, le=32768)]


class _Info(BaseModel):
    name: str
    width: Side
    height: Side


class _Object(BaseModel):
    category: Annotated[str, Field(min_length=1)]
    segmentation: list[Any]
    bbox: list[float] = Field(default_factory=list)


class _Document(BaseModel):
    info: _Info
    objects: list[_Object]


@dataclass(frozen=True, eq=False)
class Query:
    """One text asked about one frame: `mask` [H, W], the union of all instances; `boxes` [B, 4] of x0 y0 x1 y1."""

    text: str
    mask: Bool
    boxes: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AnnotatedFrame:
    """An annotated frame: name of its picture without suffix, size in pixels, queries in alphabetical order."""

    name: str
    width: int
    height: int
    queries: tuple[Query, ...]


def read_annotations(folder: Path) -> list[AnnotatedFrame]:
    """All frames of `folder`, by name. Raises SceneError naming the file that is no annotation."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise SceneError(f"{folder}: holds no annotation (*.json)")
    frames = [read_frame(path) for path in paths]
    if len({frame.name for frame in frames}) != len(frames):
        raise SceneError(f"{folder}: two annotations are of the same frame")
    return frames


def read_frame(path: Path) -> AnnotatedFrame:
    """One annotated frame; objects of one category become one query. Raises SceneError."""
    try:
        document = _Document.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise SceneError(f"{path}: not an annotation: {first_problem(_Document, error)}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise SceneError(f"{path}: not JSON ({error})") from None
    width, height = document.info.width, document.info.height
    masks: dict[str, Bool] = {}
    boxes: dict[str, list[list[float]]] = {}
    for item in document.objects:
        rings = [_ring(ring, path) for ring in _rings(item.segmentation)]
        mask = masks.setdefault(item.category, np.zeros((height, width), np.bool_))
        for ring in rings:
            mask |= fill_polygon(ring, width, height)
        corners = np.concatenate(rings)
        box = item.bbox if len(item.bbox) == 4 else [*corners.min(axis=0), *corners.max(axis=0)]
        boxes.setdefault(item.category, []).append([float(x) for x in box])
    queries = tuple(Query(text, masks[text], np.array(boxes[text])) for text in sorted(masks))
    if empty := [query.text for query in queries if not query.mask.any()]:
        raise SceneError(f"{path}: object '{empty[0]}' covers no pixel of {width} x {height}; is the size right?")
    return AnnotatedFrame(Path(document.info.name).stem, width, height, queries)


def _rings(segmentation: list[Any]) -> list[Any]:
    """One ring [[x, y], ...], or several of them."""
    nested = bool(segmentation) and isinstance(segmentation[0], list) and bool(segmentation[0])
    return segmentation if nested and isinstance(segmentation[0][0], list) else [segmentation]


def _ring(points: Any, path: Path) -> NDArray[np.float64]:
    try:
        ring = np.asarray(points, dtype=np.float64)
    except (ValueError, TypeError):
        ring = np.zeros(0)
    if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3 or not np.isfinite(ring).all():
        raise SceneError(f"{path}: a segmentation is no polygon of at least three points [x, y]")
    return ring


def fill_polygon(points: NDArray[np.floating], width: int, height: int) -> Bool:
    """[H, W] pixels inside a closed polygon [P, 2] of x, y in pixel indices, its outline included; even-odd.

    Vertices are cut to whole pixels first, as cv2.fillPoly needs them; the outline is drawn by its nearest pixels.
    """
    ring = np.trunc(points)
    ends = np.roll(ring, -1, axis=0)
    inside = np.zeros((height, width), np.bool_)
    columns = np.arange(width)
    low, high = int(max(ring[:, 1].min(), 0)), int(min(ring[:, 1].max(), height - 1))
    (xa, ya), (xb, yb) = ring.T, ends.T
    for y in range(low, high + 1):
        crossing = (ya <= y) != (yb <= y)  # an end counts with the edge above it, so no vertex counts twice
        x = xa[crossing] + (y - ya[crossing]) / (yb - ya)[crossing] * (xb - xa)[crossing]
        inside[y] = (columns[:, None] >= x).sum(axis=1) % 2 == 1
    for a, b in zip(ring, ends):
        steps = int(np.abs(b - a).max()) + 1
        x, y = np.rint(np.linspace(a, b, steps)).astype(np.int64).T
        keep = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        inside[y[keep], x[keep]] = True
    return inside
