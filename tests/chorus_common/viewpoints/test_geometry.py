"""Frames, bounds, spread samples, and distances that fill a picture."""

from __future__ import annotations

import numpy as np
import pytest

from chorus_common.cameras import look_at
from chorus_common.viewpoints.geometry import furthest_points, robust_bounds, upright_frame
from chorus_common.viewpoints.places import filling_distance


def test_upright_frames_are_rotations() -> None:
    ups: list[tuple[float, float, float]] = [(0, 0, 1), (0, -1, 0), (0, 1, 0), (1, 0, 0), (0.3, -0.5, 0.8)]
    for up in ups:
        frame = upright_frame(up)
        np.testing.assert_allclose(np.dot(frame, frame.T), np.eye(3), atol=1e-12)
        assert np.linalg.det(frame) == pytest.approx(1)
        direction = np.array(up, np.float64)
        np.testing.assert_allclose(frame[2], direction / np.linalg.norm(direction))
    np.testing.assert_allclose(upright_frame((0, 0, 1)), np.eye(3), atol=1e-12)


def test_robust_bounds_ignore_floaters() -> None:
    points = np.random.default_rng(0).uniform(0, 1, (2000, 3))
    points[:3] = 500
    low, high = robust_bounds(points, np.ones(2000))
    assert (low > -0.1).all()
    assert (high < 1.1).all()


def test_furthest_points_against_the_definition() -> None:
    points = np.random.default_rng(0).uniform(0, 1, (60, 3))
    chosen = furthest_points(points, 10, first=7)
    for k in range(1, 10):
        distance = np.linalg.norm(points[:, None] - points[None, chosen[:k]], axis=2).min(1)
        assert distance[chosen[k]] == distance.max()
    assert len(furthest_points(np.zeros((5, 3)), 4, 0)) == 1  # duplicates are not chosen twice


def test_a_box_fills_the_picture() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        half, fields = rng.uniform(0.1, 2, 3), rng.uniform(0.3, 1, 2)
        view = look_at(direction * filling_distance(direction, half, fields), np.zeros(3), (0.0, 0.0, 1.0))
        corners = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) * half
        camera = corners @ view[:3, :3].T + view[:3, 3]
        shares = np.abs(camera[:, :2] / camera[:, 2:]) / fields
        assert shares.max() == pytest.approx(1)
