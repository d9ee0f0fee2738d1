"""Lenses: the published formulas, term by term, and pictures whose bending is undone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_common.camera_io.colmap import colmap_views
from chorus_common.camera_io.lens import MODELS, PINHOLE, Lens, colmap_lens, named_lens
from chorus_common.camera_io.transforms_json import transforms_views
from chorus_common.captures.undistort import undistort

#: Parameters of each model (after the focal lengths and the principal point) of a believable size.
EXAMPLES: dict[str, list[float]] = {
    "SIMPLE_PINHOLE": [], "PINHOLE": [], "SIMPLE_RADIAL": [-0.1], "RADIAL": [-0.2, 0.05],
    "OPENCV": [-0.3, 0.1, 0.002, -0.003], "OPENCV_FISHEYE": [-0.03, -0.004, 0.001, -0.0005],
    "FULL_OPENCV": [0.5, -0.1, 0.002, 0.001, 0.02, 0.6, -0.05, 0.01], "FOV": [0.9], "SIMPLE_RADIAL_FISHEYE": [0.05],
    "RADIAL_FISHEYE": [0.04, -0.01],
    "THIN_PRISM_FISHEYE": [-0.02, 0.01, 0.001, -0.002, -0.003, 0.001, 0.0005, -0.0007],
}  # fmt: skip


def published(model: str, d: list[float], u: float, v: float) -> tuple[float, float]:
    """One ray by the formulas of COLMAP's models.h, written down one model at a time."""
    if model in ("SIMPLE_PINHOLE", "PINHOLE"):
        return u, v
    r2 = u * u + v * v
    if model == "SIMPLE_RADIAL":
        return u * (1 + d[0] * r2), v * (1 + d[0] * r2)
    if model == "RADIAL":
        radial = d[0] * r2 + d[1] * r2 * r2
        return u + u * radial, v + v * radial
    if model == "OPENCV":
        k1, k2, p1, p2 = d
        radial = k1 * r2 + k2 * r2 * r2
        return (
            u + u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u * u),
            v + v * radial + 2 * p2 * u * v + p1 * (r2 + 2 * v * v),
        )
    if model == "FULL_OPENCV":
        k1, k2, p1, p2, k3, k4, k5, k6 = d
        radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
        return (
            u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u * u),
            v * radial + 2 * p2 * u * v + p1 * (r2 + 2 * v * v),
        )
    r = math.sqrt(r2)
    if model == "FOV":
        factor = math.atan(r * 2 * math.tan(d[0] / 2)) / (r * d[0])
        return u * factor, v * factor
    theta = math.atan(r)
    if model == "OPENCV_FISHEYE":
        scale = theta * (1 + d[0] * theta**2 + d[1] * theta**4 + d[2] * theta**6 + d[3] * theta**8) / r
        return u * scale, v * scale
    if model in ("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"):
        second = d[1] if len(d) > 1 else 0.0
        scale = theta * (1 + d[0] * theta**2 + second * theta**4) / r
        return u * scale, v * scale
    assert model == "THIN_PRISM_FISHEYE"
    k1, k2, p1, p2, k3, k4, sx1, sy1 = d
    u, v = u * theta / r, v * theta / r
    t2 = theta * theta
    radial = k1 * t2 + k2 * t2**2 + k3 * t2**3 + k4 * t2**4
    return (
        u + u * radial + 2 * p1 * u * v + p2 * (t2 + 2 * u * u) + sx1 * t2,
        v + v * radial + 2 * p2 * u * v + p1 * (t2 + 2 * v * v) + sy1 * t2,
    )


def lens_of(model: str) -> Lens:
    return colmap_lens(model, [1.0] * (MODELS[model].focals + 2) + EXAMPLES[model])


@pytest.mark.parametrize("model", MODELS)
def test_every_model_bends_as_published(model: str) -> None:
    rays = np.random.default_rng(0).uniform(-0.8, 0.8, (200, 2))
    found = lens_of(model).distort(rays)
    expected = np.array([published(model, EXAMPLES[model], float(u), float(v)) for u, v in rays])
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    assert lens_of(model).bends == (model not in ("SIMPLE_PINHOLE", "PINHOLE"))
    np.testing.assert_allclose(lens_of(model).distort(np.zeros((1, 2))), 0, atol=1e-12)


def test_what_folds_over_is_not_shown() -> None:
    lens = named_lens({"k1": -0.3})  # r (1 - 0.3 r^2) falls from r = 1.054 on
    rays = np.stack([np.linspace(0, 2, 400), np.zeros(400)], axis=1)
    shown = lens.distort(rays)[:, 0]
    there = np.isfinite(shown)
    assert rays[there, 0].max() == pytest.approx(math.sqrt(1 / 0.9), abs=0.01)
    assert (np.diff(shown[there]) > 0).all()
    assert not np.isfinite(shown[rays[:, 0] > 1.06]).any()


def scenery(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth picture of all directions (x, y) = (X / Z, Y / Z): [..., 3] in 0..1."""
    waves = (np.sin(4 * x + 1), np.cos(3 * y - x), np.sin(2 * x + 5 * y))
    return 0.5 + 0.4 * np.stack(waves, axis=-1)


SIZE, K = (96, 72), np.array([[70.0, 0, 46.0], [0, 72.0, 37.0], [0, 0, 1]])


def photograph(lens: Lens) -> np.ndarray:
    """What the bent camera takes of the scenery [H, W, 3] u8: of every pixel the ray that is shown there, by Newton."""
    width, height = SIZE
    x, y = np.meshgrid((np.arange(width) + 0.5 - K[0, 2]) / K[0, 0], (np.arange(height) + 0.5 - K[1, 2]) / K[1, 1])
    wanted = np.stack([x, y], -1)
    rays = wanted.copy()
    step = 1e-6
    across, down = np.array([step, 0]), np.array([0, step])
    for _ in range(60):
        here = lens.distort(rays)
        du = (lens.distort(rays + across) - here) / step
        dv = (lens.distort(rays + down) - here) / step
        jacobian = np.nan_to_num(np.stack([du, dv], -1), nan=1.0) + 1e-9 * np.eye(2)
        rays = rays - np.nan_to_num(np.linalg.solve(jacobian, (here - wanted)[..., None])[..., 0])
    return np.rint(scenery(rays[..., 0], rays[..., 1]) * 255).astype(np.uint8)


@pytest.mark.parametrize(
    "model", ["SIMPLE_RADIAL", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE", "FOV", "THIN_PRISM_FISHEYE"]
)
def test_an_undone_picture_is_what_a_pinhole_sees(model: str) -> None:
    lens = lens_of(model)
    color, known = undistort(photograph(lens), K, lens)
    width, height = SIZE
    x, y = np.meshgrid((np.arange(width) + 0.5 - K[0, 2]) / K[0, 0], (np.arange(height) + 0.5 - K[1, 2]) / K[1, 1])
    assert known.mean() > 0.7
    error = np.abs(color - scenery(x, y))[known]
    assert np.quantile(error, 0.99) < 0.02
    assert (color[~known] == 0).all()


@given(
    k1=st.floats(-0.2, 0.2), k2=st.floats(-0.05, 0.05), p=st.floats(-0.01, 0.01), fisheye=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_the_fast_path_is_the_loop_over_pixels(k1: float, k2: float, p: float, fisheye: bool, seed: int) -> None:
    lens = named_lens({"k1": k1, "k2": k2, "p1": p}, fisheye=fisheye)
    picture = np.random.default_rng(seed).integers(0, 256, (18, 24, 3), dtype=np.uint8)
    k = np.array([[17.0, 0, 11.5], [0, 18.0, 9.5], [0, 0, 1]])
    color, known = undistort(picture, k, lens)
    for i in range(18):
        for j in range(24):
            ray = np.array([[(j + 0.5 - k[0, 2]) / k[0, 0], (i + 0.5 - k[1, 2]) / k[1, 1]]])
            u, v = lens.distort(ray)[0] * [k[0, 0], k[1, 1]] + [k[0, 2], k[1, 2]]
            if not (0 <= u <= 24 and 0 <= v <= 18):
                assert not known[i, j] or min(abs(u), abs(u - 24), abs(v), abs(v - 18)) < 1e-9
                continue
            expected = np.zeros(3)
            for dy in (0, 1):
                for dx in (0, 1):
                    left, top = math.floor(u - 0.5) + dx, math.floor(v - 0.5) + dy
                    share = (1 - abs(u - 0.5 - left)) * (1 - abs(v - 0.5 - top))
                    expected += share * picture[min(max(top, 0), 17), min(max(left, 0), 23)] / 255
            if known[i, j]:
                np.testing.assert_allclose(color[i, j], expected, atol=1e-5)


def test_a_straight_lens_changes_nothing() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    color, known = undistort(picture, K, PINHOLE)
    assert known.all()
    np.testing.assert_allclose(color, picture / 255, atol=1e-6)


def test_readers_give_the_lens(tmp_path: Path) -> None:
    (tmp_path / "cameras.txt").write_text("1 OPENCV 64 48 50 51 32 24 0.1 0.2 0.003 0.004\n")
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a/b.jpg\n\n")
    (view,) = colmap_views(tmp_path)
    assert view.lens == Lens(radial=(0.1, 0.2, 0, 0), tangential=(0.003, 0.004))
    assert view.file == "a/b.jpg"
    frame = {"file_path": "images/0.png", "transform_matrix": np.eye(4).tolist()}
    base = {"w": 64, "h": 48, "fl_x": 50.0, "frames": [frame]}

    def lens(**change: object) -> Lens:
        (view,) = transforms_views(tmp_path, base | change)
        assert view.file == "images/0.png"
        return view.lens

    assert lens() == PINHOLE
    assert lens(k1=0.1, p2=0.02, k3=0.5) == Lens(radial=(0.1, 0, 0.5, 0), tangential=(0, 0.02))
    assert lens(distortion_params=[1, 2, 3, 4, 5, 6]) == Lens(radial=(1, 2, 3, 4), tangential=(5, 6))
    assert lens(camera_model="OPENCV_FISHEYE", k1=0.1, k4=0.4) == Lens(fisheye=True, radial=(0.1, 0, 0, 0.4))
    assert lens(is_fisheye=True).fisheye
    full = lens(camera_model="FULL_OPENCV", k1=1, k2=2, k3=3, k4=4, k5=5, k6=6)
    assert full == Lens(radial=(1, 2, 3, 0), denominator=(4, 5, 6))
    prism = lens(camera_model="THIN_PRISM_FISHEYE", k1=1, k4=2, sx1=3, sy1=4)
    assert prism == Lens(fisheye=True, radial=(1, 0, 0, 2), prism=(3, 4))
