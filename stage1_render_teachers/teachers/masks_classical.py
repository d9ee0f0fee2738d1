"""`embedded:masks`: a classical segmenter at three nested granularities, the mask source that needs no download.

Felzenszwalb & Huttenlocher's graph segmentation gives small regions that keep to edges (graph_segmentation.py); they
are then merged pairwise, weakest border first (region_merging.py), and the growing regions are read off at three
strengths. Every whole is a union of parts and every part a union of subparts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stage1_render_teachers.teachers.dense_classical import srgb_to_lab
from stage1_render_teachers.teachers.graph_segmentation import segment
from stage1_render_teachers.teachers.protocol import I32, U8, AskSurface, fingerprint_of
from stage1_render_teachers.teachers.region_merging import merge_regions, region_graph

#: Border strength (Lab units, a just noticeable difference is about 2) up to which regions are merged, per level.
STRENGTHS = {"whole": 17.0, "part": 10.0, "subpart": 5.0}

#: Scale (Lab units) and smoothing (pixels) of the first regions.
FIRST_SCALE, FIRST_SIGMA = 0.12, 0.6

#: The smallest first region: a share of the picture, but no fewer pixels than it takes to have an inside.
FIRST_AREA, FIRST_PIXELS = 1 / 4800, 20

#: Masks below this share of the picture are not reported (id -1): they are rims and rendering noise.
SMALLEST_AREA = 1 / 1500

VERSION = 2


class ClassicalMaskTeacher:
    """See the module's docstring. Deterministic; a 320x240 picture takes about 25 ms."""

    spec = "embedded:masks"
    levels = tuple(STRENGTHS)
    fingerprint = fingerprint_of(
        spec, VERSION, STRENGTHS, FIRST_SCALE, FIRST_SIGMA, FIRST_AREA, FIRST_PIXELS, SMALLEST_AREA
    )

    def masks_of_views(self, images: U8, seeds: Sequence[int], surfaces: Sequence[AskSurface]) -> list[dict[str, I32]]:
        """`masks` of each of the pictures [B, H, W, 3] u8; seeds and surfaces are not needed."""
        return [self.masks(image) for image in images]

    def masks(self, image: U8) -> dict[str, I32]:
        """Ids [H, W] i32 per level of a picture [H, W, 3] u8, numbered from 0 in reading order, -1 = no mask."""
        lab = srgb_to_lab(image)
        pixels = image.shape[0] * image.shape[1]
        regions = segment(lab, FIRST_SCALE, FIRST_SIGMA, max(FIRST_PIXELS, round(FIRST_AREA * pixels)))
        graph = region_graph(regions, lab)
        owners = merge_regions(graph, tuple(STRENGTHS.values()))
        return {
            level: number_masks(owner, graph.area, SMALLEST_AREA * pixels)[regions]
            for level, owner in zip(STRENGTHS, owners)
        }


def number_masks(owner: NDArray[np.int64], area: NDArray[np.float64], smallest: float) -> I32:
    """Mask id [R] i32 of each region, given the owner [R] it was merged into and its area [R] in pixels.

    Regions are numbered in reading order, so masks are as well; masks of fewer than `smallest` pixels become -1.
    """
    total = np.bincount(owner, area, len(owner))
    owners, first = np.unique(owner, return_index=True)
    kept = owners[np.argsort(first)]
    kept = kept[total[kept] >= smallest]
    number = np.full(len(owner), -1, dtype=np.int32)
    number[kept] = np.arange(len(kept), dtype=np.int32)
    return number[owner]
