"""Merge the regions of a picture pairwise, weakest border first, and read the partition off at several strengths."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

#: Regions smaller than this share of the picture have weaker borders than their contrast says.
REFERENCE_AREA = 1 / 50


@dataclass(frozen=True)
class RegionGraph:
    """Regions of one picture and the borders between them.

    Attributes:
        area   [R] f64 pixels;  colour [R, 3] f64 mean Lab.
        pairs  [E, 2] i64 neighbouring regions, first < second, sorted.
        length [E] f64 pixel pairs along the border;  contrast [E] f64 summed Lab distance across it.
    """

    area: F64
    colour: F64
    pairs: I64
    length: F64
    contrast: F64


def region_graph(regions: I32, lab: F32) -> RegionGraph:
    """The graph of 4-neighbouring regions of ids [H, W] (0..R-1, each present) on a Lab picture [H, W, 3].

    Contrast is taken two pixels apart: blending smears every border of a rendered picture over about that width.
    """
    area, colour, keys, length, contrast = _measure(regions, lab, int(regions.max()) + 1)
    order = np.argsort(keys)
    n = len(area)
    pairs = np.stack([keys[order] // n, keys[order] % n], axis=1)
    return RegionGraph(area, colour, pairs, length[order], contrast[order])


@njit(nogil=True, cache=True, error_model="numpy")
def _slot(table, keys, key):  # type: ignore[no-untyped-def]
    """Where `key` stands in the table (a power of two, never full), or the empty place where it belongs."""
    slot = (key * 0x9E3779B1) & (len(table) - 1)
    while table[slot] >= 0 and keys[table[slot]] != key:
        slot = (slot + 1) & (len(table) - 1)
    return slot


@njit(nogil=True, cache=True, error_model="numpy")
def _measure(regions, lab, n):  # type: ignore[no-untyped-def]
    """Area, mean colour, and per neighbouring pair its key first * n + second, border length and summed contrast."""
    height, width = regions.shape
    area, colour = np.zeros(n), np.zeros((n, 3))
    # Open addressing. Regions hang together over corners, too, so that their graph need not be planar and 3 n pairs,
    # which are nearly always enough, may not be.
    room = 16
    while room < 8 * n:
        room *= 2
    table = np.full(room, -1, np.int64)
    keys = np.empty(3 * n + 1, np.int64)
    length, contrast = np.zeros(3 * n + 1), np.zeros(3 * n + 1)
    count = 0
    for y in range(height):
        for x in range(width):
            here = regions[y, x]
            area[here] += 1
            for c in range(3):
                colour[here, c] += lab[y, x, c]
            for step in range(2):
                v, u = (y, x + 1) if step == 0 else (y + 1, x)
                if v >= height or u >= width or regions[v, u] == here:
                    continue
                if step == 0:
                    v0, u0, v1, u1 = y, max(x - 1, 0), y, min(x + 2, width - 1)
                else:
                    v0, u0, v1, u1 = max(y - 1, 0), x, min(y + 2, height - 1), x
                # of the two pixels left and right of the border, the ones further off
                square = 0.0
                for c in range(3):
                    square += (np.float64(lab[v0, u0, c]) - np.float64(lab[v1, u1, c])) ** 2
                there = regions[v, u]
                key = np.int64(min(here, there)) * n + max(here, there)
                slot = _slot(table, keys, key)
                if table[slot] < 0:
                    if count == len(keys):
                        keys = np.concatenate((keys, np.empty_like(keys)))
                        length = np.concatenate((length, np.zeros_like(length)))
                        contrast = np.concatenate((contrast, np.zeros_like(contrast)))
                        if 2 * len(keys) > len(table):
                            table = np.full(2 * len(table), -1, np.int64)
                            for k in range(count):
                                table[_slot(table, keys, keys[k])] = k
                        slot = _slot(table, keys, key)
                    table[slot] = count
                    keys[count] = key
                    count += 1
                length[table[slot]] += 1
                contrast[table[slot]] += np.sqrt(square)
    for r in range(n):
        for c in range(3):
            colour[r, c] /= area[r]
    return area, colour, keys[:count], length[:count], contrast[:count]


def merge_regions(graph: RegionGraph, strengths: tuple[float, ...]) -> list[I64]:
    """Merge the pair with the weakest border again and again; the owner [R] of every region at each strength.

    A border's strength is the mean of its contrast and of the two regions' colour distance, damped for small regions
    (a speck joins its surroundings before two large surfaces join). It is evaluated afresh after every merge. Of equal
    borders the one with the lower first and second region goes first.
    """
    limits = np.sort(np.array(strengths))
    owners = _merge(
        graph.area.copy(), graph.colour.copy(), graph.pairs, graph.length.copy(), graph.contrast.copy(), limits
    )
    found = {limit: resolve(owner) for limit, owner in zip(limits.tolist(), owners)}
    return [found[limit] for limit in strengths]


@njit(nogil=True, cache=True, error_model="numpy")
def _strength(a, b, border, area, colour, length, contrast, reference):  # type: ignore[no-untyped-def]
    square = 0.0
    for c in range(3):
        square += (colour[a, c] - colour[b, c]) ** 2
    damp = min(1.0, min(area[a], area[b]) / reference) ** 0.25
    return 0.5 * (contrast[border] / length[border] + np.sqrt(square)) * damp


@njit(nogil=True, cache=True, error_model="numpy")
def _merge(area, colour, pairs, length, contrast, limits):  # type: ignore[no-untyped-def]
    """Chains of owners [len(limits), R] at each of the ascending limits.

    Border k is two half-edges, 2k in the list of its first region and 2k + 1 in that of its second, each naming the
    region on the other side (-1: gone). Half-edges that are gone stay linked until somebody walks past them.
    """
    n = len(area)
    reference = area.sum() * REFERENCE_AREA
    other, after = np.empty(2 * len(pairs), np.int64), np.empty(2 * len(pairs), np.int64)
    head = np.full(n, -1, np.int64)
    heap = [(0.0, 0, 0, 0, 0) for _ in range(0)]
    for k in range(len(pairs)):
        a, b = pairs[k, 0], pairs[k, 1]
        other[2 * k], other[2 * k + 1] = b, a
        after[2 * k], head[a] = head[a], 2 * k
        after[2 * k + 1], head[b] = head[b], 2 * k + 1
        heap.append((_strength(a, b, k, area, colour, length, contrast, reference), a, b, 0, 0))
    heapq.heapify(heap)
    owner = np.arange(n)
    stamp = np.zeros(n, np.int64)
    edge_to = np.full(n, -1, np.int64)  # of the merged region, by the region on the other side
    owners = np.empty((len(limits), n), np.int64)
    for level in range(len(limits)):
        while len(heap) > 0 and heap[0][0] < limits[level]:
            _, a, b, stamp_a, stamp_b = heapq.heappop(heap)
            if stamp[a] != stamp_a or stamp[b] != stamp_b:
                continue  # one of the two has changed since; its fresh borders are in the heap
            total = area[a] + area[b]
            for c in range(3):
                colour[a, c] = (colour[a, c] * area[a] + colour[b, c] * area[b]) / total
            area[a] = total
            owner[b] = a
            stamp[a] += 1
            stamp[b] = -1
            live = -1  # the list of what is left of a's half-edges
            e = head[a]
            while e >= 0:
                following = after[e]
                if other[e] >= 0 and other[e] != b:
                    edge_to[other[e]] = e
                    after[e] = live
                    live = e
                e = following
            e = head[b]
            while e >= 0:
                following = after[e]
                side = other[e]
                if side >= 0 and side != a:
                    known = edge_to[side]
                    if known >= 0:
                        length[known >> 1] += length[e >> 1]
                        contrast[known >> 1] += contrast[e >> 1]
                        other[e], other[e ^ 1] = -1, -1
                    else:
                        other[e ^ 1] = a
                        edge_to[side] = e
                        after[e] = live
                        live = e
                e = following
            head[a] = live
            e = live
            while e >= 0:
                side = other[e]
                edge_to[side] = -1
                first, second = min(a, side), max(a, side)
                weight = _strength(first, second, e >> 1, area, colour, length, contrast, reference)
                heapq.heappush(heap, (weight, first, second, stamp[first], stamp[second]))
                e = after[e]
        owners[level] = owner
    return owners


def resolve(owner: I64) -> I64:
    """Follow the chain of owners to its end for every region."""
    root = owner.copy()
    while not np.array_equal(root, root[root]):
        root = root[root]
    return root
