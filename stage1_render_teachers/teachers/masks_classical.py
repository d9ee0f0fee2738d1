"""`embedded:masks`: a classical segmenter at three nested granularities, the mask source that needs no download.

Felzenszwalb & Huttenlocher's graph segmentation (2004; scikit-image) gives small regions that keep to edges; they are
then merged pairwise, weakest border first, and the growing regions are read off at three strengths. Every whole is a
union of parts and every part a union of subparts.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import felzenszwalb

from stage1_render_teachers.teachers.dense_classical import srgb_to_lab
from stage1_render_teachers.teachers.protocol import F32, I32, U8, fingerprint_of

#: Border strength (Lab units, a just noticeable difference is about 2) up to which regions are merged, per level.
STRENGTHS = {"whole": 17.0, "part": 10.0, "subpart": 5.0}

#: Felzenszwalb's k and smoothing for the first regions.
FIRST_SCALE, FIRST_SIGMA = 0.3, 0.8

#: The smallest first region: a share of the picture, but no fewer pixels than it takes to have an inside.
FIRST_AREA, FIRST_PIXELS = 1 / 3200, 24

#: Masks below this share of the picture are not reported (id -1): they are rims and rendering noise.
SMALLEST_AREA = 1 / 1500

VERSION = 1


class ClassicalMaskTeacher:
    """See the module's docstring. Deterministic (`seed` is not needed); a 320x240 picture takes about 0.1 s."""

    spec = "embedded:masks"
    levels = tuple(STRENGTHS)
    fingerprint = fingerprint_of(
        spec,
        VERSION,
        STRENGTHS,
        FIRST_SCALE,
        FIRST_SIGMA,
        FIRST_AREA,
        FIRST_PIXELS,
        SMALLEST_AREA,
        version("scikit-image"),
    )

    def masks(self, image: U8, seed: int) -> dict[str, I32]:
        """Ids [H, W] i32 per level of a picture [H, W, 3] u8, numbered from 0 in reading order, -1 = no mask."""
        lab = srgb_to_lab(image)
        regions = felzenszwalb(
            lab / np.float32(100),
            scale=FIRST_SCALE,
            sigma=FIRST_SIGMA,
            min_size=max(FIRST_PIXELS, round(FIRST_AREA * image.shape[0] * image.shape[1])),
            channel_axis=-1,
        ).astype(np.int64)
        graph = region_graph(regions, lab)
        smallest = SMALLEST_AREA * regions.size
        return {
            level: number_masks(owner[regions], smallest)
            for level, owner in zip(STRENGTHS, merge_regions(graph, tuple(STRENGTHS.values())))
        }


@dataclass(frozen=True)
class RegionGraph:
    """Regions of one picture and the borders between them.

    Attributes:
        area   [R] f64 pixels;  colour [R, 3] f64 mean Lab.
        pairs  [E, 2] i64 neighbouring regions, first < second, sorted.
        length [E] f64 pixel pairs along the border;  contrast [E] f64 summed Lab distance across it.
    """

    area: NDArray[np.float64]
    colour: NDArray[np.float64]
    pairs: NDArray[np.int64]
    length: NDArray[np.float64]
    contrast: NDArray[np.float64]


def region_graph(regions: NDArray[np.int64], lab: F32) -> RegionGraph:
    """The graph of 4-neighbouring regions of ids [H, W] (0..R-1) on a Lab picture [H, W, 3]."""
    n = int(regions.max()) + 1
    flat = regions.ravel()
    area = np.bincount(flat, minlength=n).astype(np.float64)
    colour = np.stack([np.bincount(flat, lab[..., c].ravel(), n) for c in range(3)], axis=1) / area[:, None]

    # Contrast is taken two pixels apart: blending smears every border of a rendered picture over about that width.
    keys, distances = [], []
    for first, second, here, there in (
        (regions[:, :-1], regions[:, 1:], np.roll(lab, 1, 1)[:, :-1], np.roll(lab, -1, 1)[:, 1:]),
        (regions[:-1], regions[1:], np.roll(lab, 1, 0)[:-1], np.roll(lab, -1, 0)[1:]),
    ):
        border = first != second
        a, b = first[border], second[border]
        keys.append(np.minimum(a, b) * n + np.maximum(a, b))
        distances.append(np.linalg.norm(here[border] - there[border], axis=-1))
    unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    return RegionGraph(
        area,
        colour,
        np.stack([unique // n, unique % n], axis=1),
        np.bincount(inverse, minlength=len(unique)).astype(np.float64),
        np.bincount(inverse, np.concatenate(distances), len(unique)).astype(np.float64),
    )


def merge_regions(graph: RegionGraph, strengths: tuple[float, ...]) -> list[NDArray[np.int64]]:
    """Merge the pair with the weakest border again and again; the owner [R] of every region at each strength.

    A border's strength is the mean of its contrast and of the two regions' colour distance, damped for small regions
    (a speck joins its surroundings before two large surfaces join). It is evaluated afresh after every merge.
    """
    n = len(graph.area)
    area, colour = graph.area.tolist(), [tuple(row) for row in graph.colour.tolist()]
    reference = sum(area) / 50
    borders: list[dict[int, tuple[float, float]]] = [{} for _ in range(n)]
    for (a, b), length, contrast in zip(graph.pairs.tolist(), graph.length.tolist(), graph.contrast.tolist()):
        borders[a][b] = borders[b][a] = (length, contrast)
    owner = np.arange(n)
    stamp = [0] * n

    def strength(a: int, b: int) -> float:
        length, contrast = borders[a][b]
        distance = sum((x - y) ** 2 for x, y in zip(colour[a], colour[b])) ** 0.5
        return 0.5 * (contrast / length + distance) * min(1.0, min(area[a], area[b]) / reference) ** 0.25

    heap = [(strength(a, b), a, b, 0, 0) for a, b in graph.pairs.tolist()]
    heapq.heapify(heap)
    owners: dict[float, NDArray[np.int64]] = {}
    for limit in sorted(strengths):
        while heap and heap[0][0] < limit:
            _, a, b, stamp_a, stamp_b = heapq.heappop(heap)
            if stamp[a] != stamp_a or stamp[b] != stamp_b:
                continue  # one of the two has changed since; its fresh borders are in the heap
            total = area[a] + area[b]
            colour[a] = tuple((x * area[a] + y * area[b]) / total for x, y in zip(colour[a], colour[b]))
            area[a] = total
            owner[b] = a
            stamp[a] += 1
            stamp[b] = -1
            for other, (length, contrast) in borders[b].items():
                del borders[other][b]
                if other != a:
                    known = borders[a].get(other, (0.0, 0.0))
                    borders[a][other] = borders[other][a] = (known[0] + length, known[1] + contrast)
            borders[b] = {}
            for other in borders[a]:
                first, second = min(a, other), max(a, other)
                heapq.heappush(heap, (strength(first, second), first, second, stamp[first], stamp[second]))
        owners[limit] = resolve(owner)
    return [owners[limit] for limit in strengths]


def resolve(owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Follow the chain of owners to its end for every region."""
    root = owner.copy()
    while not np.array_equal(root, root[root]):
        root = root[root]
    return root


def number_masks(ids: NDArray[np.int64], smallest: float) -> I32:
    """Ids [H, W] numbered from 0 in reading order; regions of fewer than `smallest` pixels become -1."""
    unique, first, inverse, count = np.unique(ids.ravel(), return_index=True, return_inverse=True, return_counts=True)
    keep = np.flatnonzero(count >= smallest)
    number = np.full(len(unique), -1, dtype=np.int32)
    number[keep[np.argsort(first[keep], kind="stable")]] = np.arange(len(keep), dtype=np.int32)
    return number[inverse].reshape(ids.shape)
