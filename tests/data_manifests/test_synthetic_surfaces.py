"""Surfaces: shapes face outwards, sampling is even and complete, box tests agree with a slow twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from chorus_common.scene import quats_to_rotations
from data_manifests.synthetic.item import Item, oriented, overlapping
from data_manifests.synthetic.room import rotations_to_quats
from data_manifests.synthetic.sampling import Soup, count_samples, sample
from data_manifests.synthetic.shapes import (
    Patch,
    box,
    cylinder,
    folded_sheet,
    lathe,
    moved,
    panel,
    quad,
    rod,
    rounded_box,
    tilted,
)
from data_manifests.synthetic.textures import PATTERNS, Texture, draw_texture, hash01


def area_of(patch: Patch) -> float:
    """Slow twin: triangle by triangle."""
    total = 0.0
    for i in range(patch.shape[0] - 1):
        for j in range(patch.shape[1] - 1):
            a, b, c, d = patch[i, j], patch[i, j + 1], patch[i + 1, j], patch[i + 1, j + 1]
            total += np.linalg.norm(np.cross(b - a, c - a)) / 2 + np.linalg.norm(np.cross(c - d, b - d)) / 2
    return float(total)


CLOSED = {
    "box": (box((-0.4, -0.3, -0.2), (0.4, 0.3, 0.2)), np.zeros(3)),
    "cushion": (rounded_box((-0.4, -0.3, -0.1), (0.4, 0.3, 0.1), 0.05, 0.02), np.zeros(3)),
    "cylinder": (cylinder((0, 0, -0.3), 0.3, 0.6), np.zeros(3)),
    "ball": (lathe([(0.0, -0.3), (0.26, -0.15), (0.3, 0.0), (0.26, 0.15), (0.0, 0.3)]), np.zeros(3)),
    "rod": (rod((-0.5, 0.1, 0.0), (0.5, 0.1, 0.0), 0.02), None),
    "leaning rod": (rod((-0.5, 0.1, 0.0), (0.1, 0.2, 0.8), 0.02), None),
}


@pytest.mark.parametrize("name", CLOSED)
def test_normals_of_closed_shapes_point_outwards(name: str) -> None:
    patches, centre = CLOSED[name]
    soup = Soup.build(patches)
    samples = sample(soup, np.full(len(patches), 0.03), np.random.default_rng(0))
    middle = patches[0].reshape(-1, 3).mean(0) if centre is None else centre
    outward = samples.point - middle
    if name == "rod":
        outward[:, 0] = 0.0
    if name == "leaning rod":
        axis = np.array([0.6, 0.1, 0.8]) / np.linalg.norm([0.6, 0.1, 0.8])
        outward = samples.point - np.array([-0.5, 0.1, 0.0])
        outward -= (outward @ axis)[:, None] * axis
    assert (np.einsum("ij,ij->i", outward, samples.normal) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(samples.normal, axis=1), 1, atol=1e-9)
    assert np.abs(np.einsum("ij,ij->i", samples.tangent, samples.normal)).max() < 1e-6


@pytest.mark.parametrize(
    "patches",
    [
        [quad((0, 0, 0), (2, 0, 0), (0, 1.5, 0))], lathe([(0.8, 0.0), (0.0, 0.0)], k=40),
        folded_sheet(2.0, 0, 2.0, 0.05, 8, 0.3),
    ],
    ids=["rectangle", "disc", "curtain"],
)  # fmt: skip
def test_samples_are_even_and_leave_no_gaps(patches: list[Patch]) -> None:
    h = 0.05
    soup = Soup.build(patches)
    samples = sample(soup, np.full(len(patches), h), np.random.default_rng(1))
    area = sum(area_of(p) for p in patches)
    assert len(samples.point) == count_samples(soup, np.full(len(patches), h))
    assert len(samples.point) * h * h == pytest.approx(area, rel=0.12)
    # a fine random cloud on the same surface finds a sample near by everywhere
    fine = sample(soup, np.full(len(patches), h / 6), np.random.default_rng(2), jitter=1.0)
    distance, _ = cKDTree(samples.point).query(fine.point)
    assert distance.max() < 1.25 * h
    # and no two samples sit on top of each other, unlike with independent draws
    nearest = cKDTree(samples.point).query(samples.point, k=2)[0][:, 1]
    assert np.quantile(nearest, 0.02) > 0.35 * h


def test_samples_lie_on_a_sphere() -> None:
    t = np.linspace(-np.pi / 2, np.pi / 2, 41)
    patches = lathe([(0.5 * float(np.cos(a)), 0.5 * float(np.sin(a))) for a in t], k=80)
    samples = sample(Soup.build(patches), np.array([0.03]), np.random.default_rng(0))
    radius = np.linalg.norm(samples.point, axis=1)
    assert np.abs(radius - 0.5).max() < 0.002
    assert np.einsum("ij,ij->i", samples.point / radius[:, None], samples.normal).min() > 0.99


def test_many_patches_at_once_equal_each_alone() -> None:
    """The flat arrays never mix patches: without jitter, the soup gives what single patches give."""
    patches = [
        *box((0, 0, 0), (1, 0.5, 0.3)),
        *cylinder((3, 0, 0), 0.2, 0.5),
        *rounded_box((5, 0, 0), (6, 1, 0.4), 0.1),
    ]
    spacing = np.linspace(0.04, 0.11, len(patches))
    rng = np.random.default_rng(0)
    together = sample(Soup.build(patches), spacing, rng, jitter=0.0)
    for i, patch in enumerate(patches):
        alone = sample(Soup.build([patch]), spacing[i : i + 1], rng, jitter=0.0)
        rows = together.patch == i
        np.testing.assert_allclose(together.point[rows], alone.point, atol=1e-9)
        np.testing.assert_allclose(together.step[rows], alone.step, atol=1e-9)


def test_panel_with_holes_has_the_area_that_is_left() -> None:
    holes = [(0.5, 1.4, 0.0, 2.0), (2.0, 3.2, 0.9, 2.1), (2.5, 2.7, 2.2, 2.3)]
    patches = panel((0, 0, 0), (4, 0, 0), (0, 0, 2.5), holes)
    assert sum(area_of(p) for p in patches) == pytest.approx(10 - 1.8 - 1.44 - 0.02)
    points = sample(Soup.build(patches), np.full(len(patches), 0.03), np.random.default_rng(0)).point
    for u0, u1, v0, v1 in holes:
        inside = (points[:, 0] > u0) & (points[:, 0] < u1) & (points[:, 2] > v0) & (points[:, 2] < v1)
        assert not inside.any()


def test_tilt_leans_backwards() -> None:
    (back,) = tilted([quad((0, 0, 0), (1, 0, 0), (0, 0, 1))], 0.3, (0, 0, 0))
    assert back[1, 0, 1] == pytest.approx(-np.sin(0.3))


def test_only_upright_boxes_hide_what_they_cover() -> None:
    """An open door does not fill its corner box: its own faces would vanish in it."""
    rng = np.random.default_rng(0)
    item = Item("door", "door")
    leaf = box((0, -0.04, 0), (0.9, 0, 2))
    item.add("leaf", draw_texture(rng), leaf)
    np.testing.assert_allclose(item.closed_boxes, [[[0, -0.04, 0], [0.9, 0, 2]]])
    item.parts[0].primitives[0] = moved(leaf, (0, 0, 0), 0.7)
    assert item.closed_boxes.shape == (0, 2, 3)
    item.parts[0].primitives[0] = tilted(leaf, 0.2, (0, 0, 0))
    assert item.closed_boxes.shape == (0, 2, 3)


boxes = st.tuples(
    *(st.floats(-1, 1) for _ in range(2)), *(st.floats(0.1, 0.8) for _ in range(2)), st.floats(0, 6.3),
    st.floats(-0.5, 0.5), st.floats(0.1, 0.8),
)  # fmt: skip


def _corner_box(b: tuple[float, ...]) -> np.ndarray:
    x, y, hx, hy, yaw, z, h = b
    return oriented(np.array([[[-hx, -hy, 0.0], [hx, hy, h]]]), (x, y, z), yaw)


@settings(max_examples=150, deadline=None)
@given(boxes, boxes)
def test_box_overlap_agrees_with_point_sampling(first: tuple[float, ...], second: tuple[float, ...]) -> None:
    a, b = _corner_box(first), _corner_box(second)
    found = bool(overlapping(a, b)[0, 0])
    assert found == bool(overlapping(b, a)[0, 0])

    def holds(box_: np.ndarray, points: np.ndarray, grow: float) -> np.ndarray:
        x, y, hx, hy, c, s, z0, z1 = box_[0]
        dx, dy = points[:, 0] - x, points[:, 1] - y
        plane = (np.abs(c * dx + s * dy) < hx + grow) & (np.abs(c * dy - s * dx) < hy + grow)
        return plane & (points[:, 2] > z0 - grow) & (points[:, 2] < z1 + grow)

    t = np.linspace(-1, 1, 21)
    x, y, hx, hy, c, s, z0, z1 = a[0]
    u, v, w = (g.ravel() for g in np.meshgrid(t * hx, t * hy, (t + 1) / 2 * (z1 - z0) + z0))
    grid = np.stack([x + c * u - s * v, y + s * u + c * v, w], axis=1)
    if holds(b, grid, -0.01).any():  # a point well inside both: they must overlap
        assert found
    if not holds(b, grid, 0.15).any():  # no point of a comes near b: they must not
        assert not found


def test_solids_one_per_primitive_or_one_hull() -> None:
    rng = np.random.default_rng(0)
    item = Item("table", "table")
    item.add("top", draw_texture(rng), box((-1, -1, 0.7), (1, 1, 0.75)))
    item.add("legs", draw_texture(rng), box((-1, -1, 0), (-0.9, -0.9, 0.7)), box((0.9, 0.9, 0), (1, 1, 0.7)))
    assert len(item.solids) == 3
    item.hull = True
    np.testing.assert_allclose(item.solids, [[[-1, -1, 0], [1, 1, 0.75]]])


@pytest.mark.parametrize("kind", sorted(PATTERNS))
def test_textures_are_pure_functions_in_range(kind: str) -> None:
    rng = np.random.default_rng(3)
    texture = Texture(kind, rng.uniform(0.1, 0.9, (3, 3)), 0.1, 77)
    uv = rng.uniform(0, 3, (500, 2))
    colors = texture.albedo(uv, uv / 3)
    assert colors.shape == (500, 3)
    assert colors.min() >= 0
    assert colors.max() <= 1
    np.testing.assert_array_equal(texture.albedo(uv[::-1], uv[::-1] / 3)[::-1], colors)


def slow_hash01(x: int, y: int, seed: int) -> float:
    """Slow twin in unbounded integers."""
    mask = 2**64 - 1
    h = ((x & mask) * 0x9E3779B97F4A7C15 + (y & mask) * 0xC2B2AE3D27D4EB4F + seed * 0x165667B19E3779F9) & mask
    h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & mask
    h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & mask
    return ((h ^ (h >> 31)) >> 11) * 2.0**-53


@given(st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40), st.integers(0, 2**31))
def test_lattice_hash_agrees_with_exact_integers(x: int, y: int, seed: int) -> None:
    assert hash01(np.array([x]), np.array([y]), seed)[0] == slow_hash01(x, y, seed)


def test_lattice_hash_is_uniform() -> None:
    i = np.arange(20_000)
    values = hash01(i, i // 7, 5)
    assert abs(values.mean() - 0.5) < 0.01
    assert np.histogram(values, 10, (0, 1))[0].min() > 1_800


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_rotations_to_quats_inverts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, _ = np.linalg.qr(rng.normal(size=(8, 3, 3)))
    m[:, :, 2] *= np.linalg.det(m)[:, None]
    m[0] = np.diag([1.0, -1.0, -1.0])  # half a turn: w is exactly zero
    quats = rotations_to_quats(m)
    assert (quats[:, 0] >= 0).all()
    np.testing.assert_allclose(quats_to_rotations(quats.astype(np.float64)), m, atol=1e-6)
