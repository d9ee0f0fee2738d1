"""The classical embedded teachers: plain twins, invariances that make them what they claim to be, and determinism."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import ConfigError
from stage1_render_teachers.teachers import DenseTeacher, MaskTeacher, build_teacher, known_teachers, teacher_name
from stage1_render_teachers.teachers.dense_classical import (
    CHANNELS,
    ClassicalDenseTeacher,
    describe,
    halve,
    oriented_gradients,
    pool,
    srgb_to_lab,
    uniform_lbp,
    window_matrix,
)
from stage1_render_teachers.teachers.graph_segmentation import grid_edges, segment, sort_edges
from stage1_render_teachers.teachers.mask_embeddings import cell_of_pixels, pool_under_masks
from stage1_render_teachers.teachers.masks_classical import ClassicalMaskTeacher, number_masks
from stage1_render_teachers.teachers.region_merging import merge_regions, region_graph

GRID = CellGrid(160, 120, 16)


def picture(seed: int, width: int = 160, height: int = 120) -> NDArray[np.uint8]:
    """Flat and striped rectangles on a plain ground: something with colour, edges and texture."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), rng.integers(60, 200, 3), dtype=np.float64)
    for k in range(6):
        x, y = rng.integers(0, width - 20), rng.integers(0, height - 20)
        w, h = rng.integers(15, width // 2), rng.integers(15, height // 2)
        patch = image[y : y + h, x : x + w]
        patch[...] = rng.integers(0, 255, 3)
        if k % 2:
            patch += (25 * np.sin(np.arange(patch.shape[1]) * rng.uniform(0.5, 2)))[None, :, None]
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


# --- building ----------------------------------------------------------------------------------------------------


def test_known_specs_build_and_say_what_they_are() -> None:
    dense, masks = build_teacher("embedded:dense"), build_teacher("embedded:masks")
    assert isinstance(dense, DenseTeacher)
    assert not isinstance(dense, MaskTeacher)
    assert isinstance(masks, MaskTeacher)
    assert not isinstance(masks, DenseTeacher)
    assert {"embedded:dense", "embedded:masks", "embedded:text"} <= set(known_teachers())
    assert dense.fingerprint != masks.fingerprint


@pytest.mark.parametrize("spec", ["embedded:dens", "", "nonsense", "embedded:", "embedded:dense:x"])
def test_unknown_specs_are_refused_with_the_nearest_name(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"did you mean '[a-z]+"):
        build_teacher(spec)


def test_teacher_names_are_safe_file_names() -> None:
    assert teacher_name("open_clip:ViT-B-16:laion2b_s34b_b88k") == "open-clip-ViT-B-16-laion2b-s34b-b88k"
    assert teacher_name("sam:vit_b:/data/../sam.pth") == "sam-vit-b-data-..-sam.pth"
    assert "/" not in teacher_name("a:/b/c")
    long = [f"timm:vit_tiny:/hub/{'snapshots/' * 20}{end}/model.safetensors" for end in "ab"]
    assert teacher_name(long[0]) != teacher_name(long[1])
    assert all(len(teacher_name(spec)) <= 100 and teacher_name(spec).startswith("timm-vit-tiny-hub") for spec in long)


# --- dense -------------------------------------------------------------------------------------------------------


def test_lab_agrees_with_scikit_image() -> None:
    from skimage.color import rgb2lab

    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    np.testing.assert_allclose(srgb_to_lab(image), rgb2lab(image), atol=2e-3)


def test_lbp_agrees_with_a_plain_loop() -> None:
    image = np.random.default_rng(1).random((12, 15)).astype(np.float32)
    padded = np.pad(image, 1, mode="edge")
    ring = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    expected = np.empty(image.shape, dtype=int)
    for y in range(12):
        for x in range(15):
            bits = [bool(padded[y + 1 + dy, x + 1 + dx] > image[y, x] + np.float32(0.0025)) for dy, dx in ring]
            changes = sum(bits[i] != bits[i - 1] for i in range(8))
            expected[y, x] = sum(bits) if changes <= 2 else 9
    np.testing.assert_array_equal(uniform_lbp(image), expected)


@pytest.mark.parametrize(("width", "height", "cell"), [(64, 48, 16), (50, 37, 8), (33, 20, 7), (16, 16, 16), (9, 5, 1)])
def test_pooling_by_cells_agrees_with_plain_means(width: int, height: int, cell: int) -> None:
    grid = CellGrid(width, height, cell)
    maps = np.random.default_rng(2).random((height, width, 3)).astype(np.float32)
    expected = np.stack(
        [
            [
                maps[r * cell : (r + 1) * cell, c * cell : (c + 1) * cell].reshape(-1, 3).mean(0)
                for c in range(grid.cols)
            ]
            for r in range(grid.rows)
        ]
    )
    np.testing.assert_allclose(pool(maps, grid, 1.0), expected, atol=1e-5)


@given(st.integers(1, 90), st.integers(1, 16), st.sampled_from([1.0, 1.5, 3.0]), st.sampled_from([1, 2, 4]))
def test_windows_are_means_over_the_right_pixels(extent: int, cell: int, reach: float, level: int) -> None:
    pixels, cells = -(-extent // level), -(-extent // cell)
    weights = window_matrix(pixels, cells, extent / cell, reach).toarray()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert (weights >= 0).all()
    centres = (np.arange(pixels) + 0.5) * extent / pixels / cell  # pixel centres, in cells
    spacing = extent / pixels / cell
    far = np.abs(centres[None] - np.arange(cells)[:, None] - 0.5) > (reach + 1) / 2 + spacing + 1e-9
    assert (weights[far] == 0).all()


@pytest.mark.parametrize("angle", [0.0, 22.5, 45.0, 90.0, 157.5])
def test_gradient_bins_peak_at_the_gradient_s_direction_and_ignore_its_sign(angle: float) -> None:
    y, x = np.mgrid[:30, :40].astype(np.float32)
    ramp = np.cos(np.radians(angle)) * x + np.sin(np.radians(angle)) * y
    answer = oriented_gradients(ramp.astype(np.float32) * np.float32(0.01))[15, 20]
    assert np.argmax(answer) == round(angle / 22.5) % 8
    np.testing.assert_allclose(
        oriented_gradients(-ramp.astype(np.float32) * np.float32(0.01))[15, 20], answer, atol=1e-7
    )
    np.testing.assert_allclose(answer.max(), 0.01, rtol=1e-3)


def test_halving_is_a_mean_and_repeats_odd_borders() -> None:
    image = np.arange(15, dtype=np.float32).reshape(3, 5, 1)
    padded = np.pad(image, ((0, 1), (0, 1), (0, 0)), mode="edge")
    expected = padded.reshape(2, 2, 3, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(halve(image)[..., 0], expected)


@pytest.mark.parametrize(
    ("width", "height", "cell"), [(160, 120, 16), (160, 120, 8), (97, 61, 16), (20, 14, 1), (5, 3, 16)]
)
def test_features_have_the_grid_s_shape_and_are_finite(width: int, height: int, cell: int) -> None:
    grid = CellGrid(width, height, cell)
    images = np.stack(
        [picture(0, width, height) if min(width, height) > 40 else np.zeros((height, width, 3), np.uint8)]
    )
    features = ClassicalDenseTeacher().features(images, grid)
    assert features.shape == (1, grid.rows, grid.cols, CHANNELS)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_features_do_not_know_where_they_are() -> None:
    """A picture shifted by whole cells gives shifted features, away from the border."""
    large = picture(3, 320, 240)
    grid = CellGrid(192, 144, 16)
    here = describe(np.ascontiguousarray(large[32:176, 32:224]), grid)
    there = describe(np.ascontiguousarray(large[48:192, 64:256]), grid)
    np.testing.assert_allclose(here[3:-2, 4:-2], there[2:-3, 2:-4], atol=1e-4)


def test_features_of_a_batch_are_those_of_its_pictures() -> None:
    images = np.stack([picture(seed) for seed in range(3)])
    together = ClassicalDenseTeacher().features(images, GRID)
    for image, features in zip(images, together):
        np.testing.assert_array_equal(describe(image, GRID), features)


def test_features_tell_textures_apart_that_share_their_mean_colour() -> None:
    y, x = np.mgrid[:64, :64]
    across, along = (128 + 60 * np.sin(2 * np.pi * v / 8) for v in (x, y))
    grid = CellGrid(64, 64, 16)
    a, b = (describe(np.repeat(v[..., None], 3, 2).astype(np.uint8), grid)[1:-1, 1:-1] for v in (across, along))
    within = np.abs(a - a.mean(axis=(0, 1))).max()
    assert np.linalg.norm(a.mean(axis=(0, 1)) - b.mean(axis=(0, 1))) > 1.0 > within


def test_features_survive_pictures_of_one_colour() -> None:
    for value in (0, 255):
        features = describe(np.full((48, 64, 3), value, np.uint8), CellGrid(64, 48, 16))
        assert np.isfinite(features).all()
        np.testing.assert_allclose(features, np.broadcast_to(features[0, 0], features.shape), atol=1e-5)


# --- masks -------------------------------------------------------------------------------------------------------


def test_masks_are_nested_numbered_and_repeatable() -> None:
    image = picture(5)
    teacher = ClassicalMaskTeacher()
    levels = teacher.masks(image)
    assert tuple(levels) == teacher.levels == ("whole", "part", "subpart")
    for name, ids in teacher.masks(image).items():
        np.testing.assert_array_equal(ids, levels[name])
        assert ids.dtype == np.int32
        assert ids.shape == image.shape[:2]
        present = np.unique(ids[ids >= 0])
        np.testing.assert_array_equal(present, np.arange(len(present)))
    for coarse, fine in (("whole", "part"), ("part", "subpart")):
        for mask in range(levels[fine].max() + 1):
            owners = np.unique(levels[coarse][levels[fine] == mask])
            assert len(owners) == 1, f"{fine} {mask} lies in several {coarse}s"
        assert levels[coarse].max() <= levels[fine].max()


def test_masks_find_flat_rectangles() -> None:
    image = np.full((96, 128, 3), 200, np.uint8)
    image[20:60, 20:70] = (180, 30, 30)
    image[40:80, 80:120] = (30, 60, 170)
    ids = ClassicalMaskTeacher().masks(image)["whole"]
    for rows, columns in ((slice(22, 58), slice(22, 68)), (slice(42, 78), slice(82, 118))):
        inside = np.unique(ids[rows, columns])
        assert len(inside) == 1
        mask = ids == inside[0]
        truth = np.zeros_like(mask)
        truth[rows.start - 2 : rows.stop + 2, columns.start - 2 : columns.stop + 2] = True
        assert (mask & truth).sum() / (mask | truth).sum() > 0.9


def test_masks_of_one_colour_are_one_mask() -> None:
    levels = ClassicalMaskTeacher().masks(np.full((60, 80, 3), 77, np.uint8))
    assert all((ids == 0).all() for ids in levels.values())


def slow_merge(graph, limit: float) -> NDArray[np.int64]:  # type: ignore[no-untyped-def]
    """The same rule without a heap: look at every border, merge the weakest, start again."""
    area, colour = graph.area.copy(), graph.colour.copy()
    reference = area.sum() / 50
    borders = {tuple(p): (n, c) for p, n, c in zip(graph.pairs.tolist(), graph.length, graph.contrast)}
    owner = np.arange(len(area))
    while borders:
        costs = {}
        for (a, b), (length, contrast) in borders.items():
            distance = np.sqrt(((colour[a] - colour[b]) ** 2).sum())
            damp = min(1.0, min(area[a], area[b]) / reference) ** 0.25
            costs[a, b] = 0.5 * (contrast / length + distance) * damp
        a, b = min(costs, key=lambda pair: (costs[pair], pair))
        if costs[a, b] >= limit:
            break
        colour[a] = (colour[a] * area[a] + colour[b] * area[b]) / (area[a] + area[b])
        area[a] += area[b]
        owner[owner == b] = a
        merged: dict[tuple[int, int], tuple[float, float]] = {}
        for (p, q), (length, contrast) in borders.items():
            p, q = (a if v == b else v for v in (p, q))
            if p != q:
                key = (min(p, q), max(p, q))
                known = merged.get(key, (0.0, 0.0))
                merged[key] = (known[0] + length, known[1] + contrast)
        borders = merged
    return owner


@pytest.mark.parametrize("seed", range(4))
def test_merging_agrees_with_a_plain_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    regions = rng.permutation(24).reshape(4, 6).repeat(5, 0).repeat(5, 1).astype(np.int32)
    lab = (rng.normal(50, 15, (24, 3))[regions] + rng.normal(0, 1, (20, 30, 3))).astype(np.float32)
    graph = region_graph(regions, lab)
    limits = (25.0, 14.0, 7.0)
    for owner, limit in zip(merge_regions(graph, limits), limits):
        expected = slow_merge(graph, limit)
        pairs = np.unique(np.stack([owner, expected], 1), axis=0)
        assert len(pairs) == len(np.unique(owner)) == len(np.unique(expected)), "another partition"


def test_small_masks_are_dropped_and_the_rest_numbered_in_reading_order() -> None:
    owner = np.array([3, 1, 2, 3, 2, 5])
    area = np.array([4.0, 1, 2, 1, 1, 3])
    np.testing.assert_array_equal(number_masks(owner, area, 2), [0, -1, 1, 0, 1, 2])


@pytest.mark.parametrize(("seed", "scattered"), [(0, False), (1, False), (2, True), (3, True)])
def test_the_graph_of_regions_agrees_with_plain_loops(seed: int, scattered: bool) -> None:
    """`scattered` regions cross, as regions that hang together over corners may: nearly all are neighbours."""
    rng = np.random.default_rng(seed)
    if scattered:
        regions = np.append(np.arange(30), rng.integers(0, 30, 18 * 16 - 30)).reshape(18, 16)
    else:
        regions = np.unique(rng.integers(0, 5, (6, 8)), return_inverse=True)[1].reshape(6, 8).repeat(3, 0).repeat(2, 1)
    lab = rng.normal(50, 20, (18, 16, 3)).astype(np.float32)
    graph = region_graph(regions.astype(np.int32), lab)
    assert (len(graph.pairs) > 3 * len(graph.area)) == scattered
    borders: dict[tuple[int, int], list[float]] = {}
    for y in range(18):
        for x in range(16):
            for dy, dx in ((0, 1), (1, 0)):
                v, u = y + dy, x + dx
                if v >= 18 or u >= 16 or regions[y, x] == regions[v, u]:
                    continue
                before = lab[max(y - dy, 0), max(x - dx, 0)].astype(float)
                behind = lab[min(v + dy, 17), min(u + dx, 15)].astype(float)
                pair = tuple(sorted((int(regions[y, x]), int(regions[v, u]))))
                borders.setdefault(pair, []).append(float(np.linalg.norm(before - behind)))  # type: ignore[arg-type]
    assert [tuple(pair) for pair in graph.pairs.tolist()] == sorted(borders)
    for pair, length, contrast in zip(graph.pairs.tolist(), graph.length, graph.contrast):
        assert length == len(borders[tuple(pair)])
        np.testing.assert_allclose(contrast, sum(borders[tuple(pair)]))
    for region in range(len(graph.area)):
        assert graph.area[region] == (regions == region).sum()
        np.testing.assert_allclose(graph.colour[region], lab[regions == region].mean(axis=0), rtol=1e-5)


def slow_segment(image: np.ndarray, scale: float, smallest: int) -> NDArray[np.int64]:
    """The paper's two sweeps with label pictures in place of a forest, over the same order of edges."""
    height, width = image.shape[:2]
    edges = []
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
                v, u = y + dy, x + dx
                if v < height and 0 <= u < width:
                    square = np.float32(0)
                    for c in range(image.shape[2]):
                        square += (image[y, x, c] - image[v, u, c]) ** 2
                    edges.append((np.sqrt(square), y * width + x, v * width + u))
    cost = np.array([edge[0] for edge in edges], np.float32)
    order = np.argsort(cost.view(np.uint32) >> 16, kind="stable")
    label = np.arange(height * width)
    inner = np.zeros(height * width)
    for e in order:
        a, b = label[edges[e][1]], label[edges[e][2]]
        if a == b:
            continue
        size_a, size_b = (label == a).sum(), (label == b).sum()
        if cost[e] < min(inner[a] + scale / size_a, inner[b] + scale / size_b):
            label[label == b] = a
            inner[a] = cost[e]
    for e in order:
        a, b = label[edges[e][1]], label[edges[e][2]]
        if a != b and min((label == a).sum(), (label == b).sum()) < smallest:
            label[label == b] = a
    first = {region: k for k, region in enumerate(dict.fromkeys(label.tolist()))}
    return np.array([first[region] for region in label]).reshape(height, width)


@pytest.mark.parametrize(("seed", "scale", "smallest"), [(0, 30.0, 1), (1, 60.0, 6), (2, 0.5, 12), (3, 1e6, 1)])
def test_segments_agree_with_a_plain_loop(seed: int, scale: float, smallest: int) -> None:
    image = np.random.default_rng(seed).normal(50, 10, (14, 19, 3)).astype(np.float32)
    image[:, 9:] += 20
    found = segment(image, scale, 1e-6, smallest)
    np.testing.assert_array_equal(found, slow_segment(image, scale, smallest))
    assert np.bincount(found.ravel()).min() >= smallest


def test_segments_are_nearly_those_of_scikit_image() -> None:
    """They differ where edges are nearly equal and in how its second sweep counts: few pairs of pixels change."""
    from skimage.segmentation import felzenszwalb

    lab = srgb_to_lab(picture(7))
    ours = segment(lab, 0.3 / 255 * 100, 0.8, 24)
    theirs = felzenszwalb(lab / np.float32(100), scale=0.3, sigma=0.8, min_size=24, channel_axis=-1)
    table = np.zeros((ours.max() + 1, theirs.max() + 1))
    np.add.at(table, (ours.ravel(), theirs.ravel()), 1)
    assert table.max(axis=1).sum() / ours.size > 0.95
    assert table.max(axis=0).sum() / ours.size > 0.95


def test_edges_are_sorted_to_within_a_hundredth() -> None:
    image = np.random.default_rng(0).gamma(0.3, 5, (30, 40, 3)).astype(np.float32)
    costs, ends = grid_edges(image)
    assert len(costs) == 30 * 39 + 29 * 40 + 2 * 29 * 39
    assert len(np.unique(ends, axis=0)) == len(ends)
    order = sort_edges(costs)
    assert np.array_equal(np.sort(order), np.arange(len(costs)))
    best = np.sort(costs)
    assert (np.abs(costs[order] - best) <= best / 64 + 1e-30).all()


def test_pooling_under_masks_agrees_with_a_plain_mean_over_pixels() -> None:
    rng = np.random.default_rng(4)
    grid = CellGrid(50, 37, 8)
    ids = rng.integers(-1, 6, (37, 50)).astype(np.int32)
    ids[ids == 3] = 4
    tokens = rng.normal(size=(grid.cells, 5)).astype(np.float32)
    painted = tokens[cell_of_pixels(grid)]
    pooled = pool_under_masks(ids, tokens, grid)
    for mask in range(6):
        expected = painted[ids == mask].mean(axis=0) if (ids == mask).any() else np.zeros(5)
        np.testing.assert_allclose(pooled[mask], expected, atol=1e-6)
    assert pool_under_masks(np.full((37, 50), -1, np.int32), tokens, grid).shape == (0, 5)
