"""The lifting index against dense matrices, and what every lifter has to hold, through the real rasteriser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from chorus_common.cameras import look_at, pinhole
from chorus_common.lifting import CellGrid, CellHits, LiftingIndex, morton_order
from chorus_common.rasterize import Rendered, get_backend
from chorus_common.runtime.errors import ConfigError, SceneError
from chorus_common.scene import GaussianScene, canonical_quats
from tests.chorus_common.rasterize import reference_rasterizer as reference

F64 = NDArray[np.float64]


def random_hits(rng: np.random.Generator, n: int, grid: CellGrid, density: float) -> CellHits:
    dense = rng.uniform(0.01, 1, (grid.cells, n)).astype(np.float32) * (rng.uniform(size=(grid.cells, n)) < density)
    cells, ids = np.nonzero(dense)
    return CellHits(cells.astype(np.int32), ids.astype(np.int32), dense[cells, ids])


def dense_matrix(index: LiftingIndex) -> F64:
    """W [R, V * cells] by matrix row."""
    matrix = np.zeros((len(index), index.n_columns))
    for r in range(len(index)):
        row = slice(index.indptr[r], index.indptr[r + 1])
        matrix[r, index.columns[row]] = index.weights[row]
    return matrix


def random_index(seed: int, n: int = 40, views: int = 3, density: float = 0.3) -> LiftingIndex:
    rng = np.random.default_rng(seed)
    grid = CellGrid(20, 13, 4)
    return LiftingIndex.build([random_hits(rng, n, grid, density) for _ in range(views)], rng.normal(size=(n, 3)), grid)


def test_grid_counts_partial_cells() -> None:
    grid = CellGrid(33, 16, 16)
    assert (grid.rows, grid.cols, grid.cells) == (1, 3, 3)
    with pytest.raises(ConfigError, match="at least 1"):
        CellGrid(0, 4, 2)


def test_morton_order_against_interleaved_bits() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 3)).astype(np.float32) * [3, 1, 0.2]
    points[50:60] = points[40:50]  # ties
    low, side = points.min(0), (points.max(0) - points.min(0)).max()
    grid = ((points - low).astype(np.float64) / side * (2**21 - 1)).astype(int)
    keys = [
        sum(((int(g[axis]) >> bit) & 1) << (3 * bit + axis) for bit in range(21) for axis in range(3)) for g in grid
    ]
    np.testing.assert_array_equal(morton_order(points), sorted(range(300), key=lambda i: (keys[i], i)))
    np.testing.assert_array_equal(morton_order(np.ones((4, 3))), np.arange(4))
    with pytest.raises(SceneError, match="centre 2 is not finite"):
        morton_order(np.array([[0, 0, 0], [1, 1, 1], [np.nan, 0, 0]]))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 60),
    views=st.integers(1, 4),
    channels=st.integers(1, 19),
    density=st.floats(0, 1),
)
def test_lift_and_render_against_dense_products(seed: int, n: int, views: int, channels: int, density: float) -> None:
    index = random_index(seed, n, views, density)
    rng = np.random.default_rng(seed)
    W = dense_matrix(index)
    flat = rng.normal(size=(index.n_columns, channels)).astype(np.float32)
    sums, weight = index.lift(flat)
    np.testing.assert_allclose(sums, W @ flat, atol=1e-4)
    np.testing.assert_allclose(weight, W.sum(1), rtol=1e-5)
    solid = rng.normal(size=(n, channels)).astype(np.float32)
    values, mass = index.render(solid)
    np.testing.assert_allclose(mass, W.sum(0), rtol=1e-5)
    np.testing.assert_allclose(values, W.T @ solid / np.maximum(W.sum(0), 1e-30)[:, None], atol=1e-4)

    keep = rng.uniform(size=index.n_columns) < 0.6
    masked, masked_weight = index.lift(flat, column_mask=keep)
    np.testing.assert_allclose(masked, (W * keep) @ flat, atol=1e-4)
    np.testing.assert_allclose(masked_weight, (W * keep).sum(1), rtol=1e-5)
    a, b = sorted(rng.integers(0, n + 1, 2))
    part, part_weight = index.lift(flat, rows=slice(a, b))
    assert part.tobytes() == sums[a:b].tobytes()
    assert part_weight.tobytes() == weight[a:b].tobytes()
    sliced = index.row_slice(a, b)
    np.testing.assert_array_equal(sliced.order, index.order[a:b])
    assert sliced.lift(flat)[0].tobytes() == sums[a:b].tobytes()


def test_build_puts_every_hit_in_its_row() -> None:
    rng = np.random.default_rng(4)
    grid, means = CellGrid(12, 8, 4), rng.normal(size=(25, 3))
    views = [random_hits(rng, 25, grid, 0.4) for _ in range(3)]
    index = LiftingIndex.build(views, means, grid)
    np.testing.assert_array_equal(index.order, morton_order(means))
    want = np.zeros((25, 3 * grid.cells))
    for view, hits in enumerate(views):
        want[hits.gaussian_ids, view * grid.cells + hits.cells] = hits.weights
    np.testing.assert_array_equal(dense_matrix(index), want[index.order])
    for r in range(25):
        assert (np.diff(index.columns[index.indptr[r] : index.indptr[r + 1]]) > 0).all()


def test_select_and_concat_views() -> None:
    index = random_index(7, views=4)
    cells = index.grid.cells
    W = dense_matrix(index).reshape(len(index), 4, cells)  # [R, V, cells]
    chosen = index.select_views([0, 3])
    np.testing.assert_array_equal(dense_matrix(chosen), W[:, [0, 3]].reshape(len(index), -1))
    joined = LiftingIndex.concat_views(index.select_views([0, 1]), index.select_views([2, 3]))
    for key in ("indptr", "columns", "weights"):
        assert getattr(joined, key).tobytes() == getattr(index, key).tobytes()
    with pytest.raises(ConfigError, match="ascending"):
        index.select_views([2, 1])
    with pytest.raises(ConfigError, match=r"0\.\.3"):
        index.select_views([4])
    with pytest.raises(SceneError, match="cannot be joined"):
        LiftingIndex.concat_views(index, random_index(8, views=2))


def test_visibility_counts_views_once() -> None:
    index = random_index(9, density=0.05)
    W = dense_matrix(index).reshape(len(index), index.n_views, -1)
    weight, n_views = index.visibility()
    np.testing.assert_allclose(weight, W.sum((1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(n_views, (W > 0).any(2).sum(1))
    assert (n_views == 0).any()


def test_same_bytes_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    index = random_index(10, n=900, views=20, density=0.2)
    rng = np.random.default_rng(0)
    flat, solid = rng.normal(size=(index.n_columns, 33)).astype("f4"), rng.normal(size=(900, 33)).astype("f4")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    one = [*index.lift(flat), *index.render(solid)]
    monkeypatch.setenv("NUMBA_NUM_THREADS", "6")
    many = [*index.lift(flat), *index.render(solid)]
    assert [a.tobytes() for a in one] == [b.tobytes() for b in many]


def test_wrong_input_is_named() -> None:
    index = random_index(1)
    with pytest.raises(ConfigError, match=rf"\[{index.n_columns}, C\], got \[3, 2\]"):
        index.lift(np.zeros((3, 2)))
    with pytest.raises(ConfigError, match="per matrix row"):
        index.render(np.zeros((3, 2)))
    with pytest.raises(ConfigError, match="column mask"):
        index.lift(np.zeros((index.n_columns, 2)), column_mask=np.ones(3, bool))
    with pytest.raises(ConfigError, match="without a step"):
        index.lift(np.zeros((index.n_columns, 2)), rows=slice(0, 10, 2))
    hits = CellHits(np.zeros(1, np.int32), np.array([5], np.int32), np.ones(1, np.float32))
    with pytest.raises(SceneError, match=r"view 0: hits name Gaussians outside 0\.\.3"):
        LiftingIndex.build([hits], np.zeros((4, 3)), index.grid)
    bad_cell = CellHits(np.array([999], np.int32), np.zeros(1, np.int32), np.ones(1, np.float32))
    with pytest.raises(SceneError, match="view 0: hits name cells"):
        LiftingIndex.build([bad_cell], np.zeros((4, 3)), index.grid)
    with pytest.raises(SceneError, match="do not fit"):
        LiftingIndex(index.order, index.indptr[:-1], index.columns, index.weights, index.grid, 3)
    with pytest.raises(SceneError, match="columns outside"):
        LiftingIndex(index.order, index.indptr, index.columns + 10_000, index.weights, index.grid, 3)
    with pytest.raises(ConfigError, match="2\\^31"):
        LiftingIndex.build(
            [CellHits(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))] * 3,
            np.zeros((4, 3)),
            CellGrid(40_000, 40_000, 1),
        )


# What every lifter has to hold, for the literal Gaussian-to-pixel index and for two sizes of cells, one of which does
# not divide the picture.
WIDTH, HEIGHT, N = 40, 28, 120
FORMS = [(cell, interpolation) for cell in (1, 4, 16) for interpolation in ("nearest", "bilinear")]


def scene_and_views() -> tuple[GaussianScene, list[F64], F64]:
    rng = np.random.default_rng(21)
    scene = GaussianScene(
        np.concatenate([rng.normal(0, 0.7, (N - 5, 3)), np.full((5, 3), 50.0)]).astype(
            np.float32
        ),  # the last five are never seen
        canonical_quats(rng.normal(size=(N, 4))),
        np.exp(rng.normal(-2, 0.6, (N, 3))).astype(np.float32),
        rng.uniform(0.05, 1, N).astype(np.float32),
        rng.uniform(0, 1, (N, 3)).astype(np.float32),
    )
    views = [look_at(np.array([3 * np.cos(a), 3 * np.sin(a), 0.6]), np.zeros(3)) for a in (0.0, 1.5, 2.9)]
    return scene, views, pinhole(WIDTH, HEIGHT, 55)


def built(cell: int, interpolation: str) -> tuple[LiftingIndex, list[Rendered], GaussianScene, list[F64], F64]:
    scene, views, K = scene_and_views()
    grid = CellGrid(WIDTH, HEIGHT, cell)
    cpu = get_backend("cpu")
    rendered = [cpu.render(scene, view, K, WIDTH, HEIGHT, grid=grid, interpolation=interpolation) for view in views]  # type: ignore[arg-type]
    return LiftingIndex.build([r.hits for r in rendered if r.hits], scene.means, grid), rendered, scene, views, K


def upsample(features: F64, grid: CellGrid, interpolation: str) -> F64:
    """[rows, cols, C] to [H, W, C] by torch: nearest or bilinear (align_corners=False) by the cell size, cropped to
    the picture."""
    tensor = torch.tensor(features).permute(2, 0, 1)[None]
    big = torch.nn.functional.interpolate(tensor, scale_factor=grid.cell, mode=interpolation)
    return big[0].permute(1, 2, 0).numpy()[:HEIGHT, :WIDTH]


@pytest.mark.parametrize(("cell", "interpolation"), FORMS)
class TestInvariants:
    def test_1_weights_and_final_transmittance_sum_to_one(self, cell: int, interpolation: str) -> None:
        _, rendered, *_ = built(cell, interpolation)
        shares = reference.interpolation_matrix(WIDTH, HEIGHT, cell, interpolation)
        for out in rendered:
            assert out.hits is not None
            per_cell = np.bincount(out.hits.cells, out.hits.weights, minlength=len(shares))
            np.testing.assert_allclose(per_cell, shares @ out.alpha.ravel(), atol=2e-4)
            assert per_cell.sum() == pytest.approx(out.alpha.sum(), rel=1e-5)

    def test_2_a_constant_picture_lifts_to_that_constant(self, cell: int, interpolation: str) -> None:
        index, *_ = built(cell, interpolation)
        constant = np.array([0.3, -7.0, 100.0], np.float32)
        sums, weight = index.lift(np.tile(constant, (index.n_columns, 1)))
        seen = weight > 0
        np.testing.assert_allclose(sums[seen] / weight[seen, None], np.tile(constant, (seen.sum(), 1)), rtol=1e-5)

    def test_3_a_constant_field_renders_to_that_constant_up_to_transmittance(
        self, cell: int, interpolation: str
    ) -> None:
        index, rendered, scene, views, K = built(cell, interpolation)
        values, weight = index.render(np.full((N, 2), 5.0, np.float32))
        np.testing.assert_allclose(values[weight > 0], 5.0, rtol=1e-5)
        shares = reference.interpolation_matrix(WIDTH, HEIGHT, cell, interpolation)
        want = np.concatenate([shares @ out.alpha.ravel() for out in rendered])
        np.testing.assert_allclose(values[:, 0] * weight, 5.0 * want, atol=1e-3)
        # the renderer itself, with the field as colour, gives c (1 - T)
        white = GaussianScene(scene.means, scene.quats, scene.scales, scene.opacities, np.ones((N, 3), np.float32))
        color = get_backend("cpu").render(white, views[0], K, WIDTH, HEIGHT).color
        np.testing.assert_allclose(color[..., 0], rendered[0].alpha, atol=1e-5)

    def test_4_equals_the_autograd_route(self, cell: int, interpolation: str) -> None:
        """sum_u w_i(u) F_u is the gradient of <render(f), F> with respect to f_i, F being the upsampled feature
        picture."""
        index, _, scene, views, K = built(cell, interpolation)
        rng = np.random.default_rng(0)
        flat = rng.normal(size=(index.n_columns, 5)).astype(np.float32)
        sums, _ = index.lift(flat)
        field = torch.zeros(N, 5, dtype=torch.float64, requires_grad=True)
        grid = index.grid
        for view, features in zip(views, flat.reshape(len(views), grid.rows, grid.cols, 5)):
            want = reference.render(scene, view, K, WIDTH, HEIGHT)
            picture = torch.tensor(want.weights) @ field  # [H * W, C]
            target = upsample(features.astype(np.float64), grid, interpolation).reshape(-1, 5)
            (picture * torch.tensor(target)).sum().backward()
        assert field.grad is not None
        # a handful of pixels on the edge of alpha = 1/255 may differ between float32 and float64
        np.testing.assert_allclose(sums, field.grad.numpy()[index.order], atol=0.03)
        assert np.median(np.abs(sums - field.grad.numpy()[index.order])) < 2e-5

    def test_5_shards_of_views_add_up(self, cell: int, interpolation: str) -> None:
        index, *_ = built(cell, interpolation)
        flat = np.random.default_rng(1).normal(size=(index.n_columns, 4)).astype(np.float32)
        cells = index.grid.cells
        sums, weight = index.lift(flat)
        parts = [index.select_views([v]).lift(flat[v * cells : (v + 1) * cells]) for v in range(index.n_views)]
        np.testing.assert_allclose(sum(p[0] for p in parts), sums, atol=1e-4)
        np.testing.assert_allclose(sum(p[1] for p in parts), weight, rtol=1e-5)

    def test_6_gaussians_without_visibility_are_flagged(self, cell: int, interpolation: str) -> None:
        index, *_ = built(cell, interpolation)
        row_of = np.argsort(index.order)
        sums, weight = index.lift(np.ones((index.n_columns, 3), np.float32))
        total, n_views = index.visibility()
        unseen = row_of[N - 5 :]
        assert not weight[unseen].any()
        assert not n_views[unseen].any()
        assert np.isfinite(sums).all()
        np.testing.assert_array_equal(n_views > 0, weight > 0)
        np.testing.assert_allclose(total, weight, rtol=1e-6)
        assert len(weight) == N  # nobody is dropped
