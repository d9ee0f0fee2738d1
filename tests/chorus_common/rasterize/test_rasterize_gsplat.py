"""The gsplat backend: everything but CUDA on the CPU (gsplat's own torch projection and tiles, the kernel in Triton's
interpreter) against the CPU rasteriser; on a GPU, against gsplat's own operations.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from types import ModuleType

import numpy as np
import pytest
import torch

from chorus_common.cameras import look_at, pinhole
from chorus_common.lifting import CellGrid, CellHits
from chorus_common.rasterize import Interpolation, get_backend
from chorus_common.rasterize.gsplat_cuda import TILE, Reach, cell_weights, gather_hits, max_alpha
from chorus_common.rasterize.rules import low_pass
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import RenderMode
from tests.stage1.small_rooms import tiny_scene

WIDTH, HEIGHT, N = 36, 20, 120
VIEW = look_at(np.array([2.0, 1.0, 0.5]), np.zeros(3))
K = pinhole(WIDTH, HEIGHT, 55)


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Executor]:
    """A process whose Triton kernels are run by numpy; Triton settles that when it is first imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(torch.set_num_threads, 1).result()
            yield pool


def interpreted_hits(grid: CellGrid, interpolation: Interpolation, mode: RenderMode) -> CellHits:
    means2d, conics, opacities, starts, flat = projected(mode=mode)
    weights, reach = cell_weights(means2d, conics, opacities, starts, flat, grid, interpolation == "bilinear", 0.999)
    return gather_hits(weights, reach, starts, flat, grid)


def projected(n: int = N, mode: RenderMode = RenderMode.CLASSIC) -> tuple[torch.Tensor, ...]:
    """means2d, conics, opacities, starts and lists of a small scene on the screen, by gsplat's torch functions."""
    from gsplat.cuda._torch_impl import (
        _fully_fused_projection,
        _isect_offset_encode,
        _isect_tiles,
        _quat_scale_to_covar_preci,
    )

    scene = replace(tiny_scene(3, n), render_mode=mode)
    filtered = low_pass(scene)
    means, quats, scales, opacities = (
        torch.from_numpy(x) for x in (scene.means, scene.quats, scene.scales, scene.opacities)
    )
    covars, _ = _quat_scale_to_covar_preci(quats, scales, True, False, triu=False)
    view, k = (torch.from_numpy(x).float()[None] for x in (VIEW, K))
    radii, means2d, depths, conics, compensations = _fully_fused_projection(
        means, covars, view, k, WIDTH, HEIGHT, eps2d=filtered.eps2d, calc_compensations=filtered.compensated
    )
    if filtered.compensated:
        opacities = opacities * compensations[0]
    cols, rows = -(-WIDTH // TILE), -(-HEIGHT // TILE)
    _, ids, flat = _isect_tiles(means2d, radii, depths, TILE, cols, rows)
    offsets = _isect_offset_encode(ids, 1, cols, rows)
    starts = torch.cat([offsets.flatten(), offsets.new_tensor([len(flat)])])
    return means2d[0], conics[0], opacities, starts, flat


@pytest.mark.parametrize(
    ("cell", "interpolation", "mode"),
    [
        (1, "nearest", RenderMode.CLASSIC),
        (1, "bilinear", RenderMode.CLASSIC),
        (2, "bilinear", RenderMode.CLASSIC),
        (3, "nearest", RenderMode.CLASSIC),
        (4, "bilinear", RenderMode.CLASSIC),
        (16, "bilinear", RenderMode.CLASSIC),
        (8, "nearest", RenderMode.CLASSIC),
        (7, "bilinear", RenderMode.ANTIALIASED),
        (16, "nearest", RenderMode.MIP),
    ],
)
def test_weights_and_hits_are_those_of_the_cpu_rasteriser(
    interpreter: Executor, cell: int, interpolation: Interpolation, mode: RenderMode
) -> None:
    grid, scene = CellGrid(WIDTH, HEIGHT, cell), replace(tiny_scene(3, N), render_mode=mode)
    found = interpreter.submit(interpreted_hits, grid, interpolation, mode).result()
    expected = get_backend("cpu").render(scene, VIEW, K, WIDTH, HEIGHT, grid=grid, interpolation=interpolation).hits
    assert expected is not None
    keys = found.cells.astype(np.int64) * 1000 + found.gaussian_ids
    assert (np.diff(keys) > 0).all()
    ours, theirs = table(found, grid), table(expected, grid)
    assert theirs.sum() > 50
    # A pixel on a cut-off may take or leave a splat of alpha 1/255.
    assert (np.abs(ours - theirs) < 1e-4).mean() > 0.998
    np.testing.assert_allclose(ours.sum(), theirs.sum(), rtol=1e-3)


def table(hits: CellHits, grid: CellGrid) -> np.ndarray:
    out = np.zeros((grid.cells, N))
    out[hits.cells, hits.gaussian_ids] = hits.weights
    return out


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize(("pixels", "cell"), [(52, 16), (36, 7), (20, 3), (16, 16), (5, 2)])
def test_shares_of_a_pixel_sum_to_one(pixels: int, cell: int, bilinear: bool) -> None:
    reach = Reach(pixels, cell, bilinear)
    np.testing.assert_allclose(reach.shares[:pixels].sum(axis=1), 1, atol=1e-6)
    assert not reach.shares[pixels:].any()
    assert reach.slots & (reach.slots - 1) == 0
    tile = np.arange(pixels) // TILE
    cells = -(-pixels // cell)
    position = (reach.shares[:pixels] * (reach.first[tile][:, None] + np.arange(reach.slots))).sum(axis=1)
    centre = np.arange(pixels) // cell
    smooth = np.clip((np.arange(pixels) + 0.5) / cell - 0.5, 0, cells - 1)
    np.testing.assert_allclose(position, smooth if bilinear else centre, atol=1e-5)


def test_without_a_gpu_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="needs a CUDA GPU and none is visible; use --set rasterizer=cpu"):
        get_backend("gsplat")


BACKEND = "gsplat.cuda._backend"


@pytest.fixture
def fresh_backend(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A GPU seems to be there, and gsplat's extension is yet to be loaded."""
    import gsplat.cuda

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delitem(sys.modules, BACKEND, raising=False)
    monkeypatch.delattr(gsplat.cuda, "_backend", raising=False)
    return monkeypatch


def test_without_a_toolkit_the_error_says_what_to_do(fresh_backend: pytest.MonkeyPatch) -> None:
    backend = ModuleType(BACKEND)
    backend._C = None  # type: ignore[attr-defined]
    fresh_backend.setitem(sys.modules, BACKEND, backend)
    with pytest.raises(ConfigError, match=r"cannot be compiled \(no CUDA toolkit found\); set CUDA_HOME"):
        get_backend("gsplat")


class Failing:
    """An import hook by which gsplat's extension fails to compile."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == BACKEND:
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        ImportError("no csrc"),
        TypeError("_jit_compile() misses an argument"),
        IndexError("list index out of range"),
        RuntimeError("Error building extension:\n[1/2] nvcc ..."),
        OSError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_extension_that_fails_to_compile_is_one_line(fresh_backend: pytest.MonkeyPatch, error: Exception) -> None:
    fresh_backend.setattr(sys, "meta_path", [Failing(error), *sys.meta_path])
    with pytest.raises(ConfigError, match="set CUDA_HOME") as caught:
        get_backend("gsplat")
    message = str(caught.value)
    assert type(error).__name__ in message
    assert str(error).partition("\n")[0] in message
    assert "\n" not in message


def test_the_cap_of_alpha_follows_the_library() -> None:
    import gsplat

    assert max_alpha(gsplat) == (0.99 if hasattr(gsplat, "rasterize_num_contributing_gaussians") else 0.999)
    assert max_alpha(type("Newer", (), {"rasterize_num_contributing_gaussians": None})) == 0.99


@pytest.mark.gpu
@pytest.mark.parametrize("mode", [RenderMode.CLASSIC, RenderMode.ANTIALIASED, RenderMode.MIP])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_a_gpu_gives_what_the_cpu_gives(interpolation: str, mode: RenderMode) -> None:
    scene, grid = replace(tiny_scene(3, N), render_mode=mode), CellGrid(WIDTH, HEIGHT, 8)
    ours, theirs = (
        get_backend(name).render(
            scene, VIEW, K, WIDTH, HEIGHT, grid=grid, interpolation=interpolation, background=(0.1, 0.2, 0.3)
        )  # type: ignore[arg-type]
        for name in ("gsplat", "cpu")
    )
    for a, b in ((ours.color, theirs.color), (ours.alpha, theirs.alpha), (ours.depth, theirs.depth)):
        assert (np.abs(a - b) < 1e-3).mean() > 0.98
    assert ours.hits is not None
    assert theirs.hits is not None
    assert (np.abs(table(ours.hits, grid) - table(theirs.hits, grid)) < 1e-3).mean() > 0.998


@pytest.mark.gpu
def test_weights_are_those_of_gsplat_s_index_operation_and_of_its_gradient() -> None:
    """cell = 1: pairs equal `rasterize_to_indices_in_range`; sums equal the gradient of a render by colour."""
    import gsplat

    means2d, conics, opacities, starts, flat = (x.cuda() for x in projected())
    grid = CellGrid(WIDTH, HEIGHT, 1)
    hits = gather_hits(*cell_weights(means2d, conics, opacities, starts, flat, grid, False, max_alpha(gsplat)), starts,
                       flat, grid)  # fmt: skip
    rows, cols = -(-HEIGHT // TILE), -(-WIDTH // TILE)
    offsets = starts[:-1].int().reshape(1, rows, cols)
    ids, pixels, _ = gsplat.rasterize_to_indices_in_range(
        0, 2**31 - 1, torch.ones(1, HEIGHT, WIDTH, device="cuda"), means2d[None], conics[None], opacities[None], WIDTH,
        HEIGHT, TILE, offsets, flat.int(),
    )  # fmt: skip
    ours = set(zip(hits.gaussian_ids.tolist(), hits.cells.tolist()))
    theirs = set(zip(ids.tolist(), pixels.tolist()))
    assert len(ours ^ theirs) < 0.005 * len(theirs)
    colors = torch.zeros(1, len(means2d), 1, device="cuda", requires_grad=True)
    picture, _ = gsplat.rasterize_to_pixels(
        means2d[None], conics[None], colors, opacities[None], WIDTH, HEIGHT, TILE, offsets, flat.int()
    )
    picture.sum().backward()
    assert colors.grad is not None
    sums = np.bincount(hits.gaussian_ids, hits.weights, len(means2d))
    np.testing.assert_allclose(sums, colors.grad[0, :, 0].cpu().numpy(), rtol=1e-2, atol=1e-2)
