"""Masking, effective rank, dense grid, head and losses of GaussianCross."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import ConfigError
from stage2_distill.encoder import PointBatch
from stage2_distill.gaussiancross.cuboid import Cuboid
from stage2_distill.gaussiancross.feature_rank import effective_rank
from stage2_distill.gaussiancross.head import DenseNeck, GaussianHead, scatter_to_grid
from stage2_distill.gaussiancross.losses import (
    appearance_loss,
    cell_features,
    contrast_loss,
    geometry_loss,
    weighted_total,
)
from stage2_distill.gaussiancross.masking import visible_points
from stage2_distill.gaussiancross.model import GaussianCross
from stage2_distill.gaussiancross.rendering import RenderedView
from stage2_distill.gaussiancross.settings import GaussianCrossConfig, HeadSettings
from stage2_distill.gaussiancross.voxels import MeasuredVoxels
from stage2_distill.start import make_encoder
from tests.stage2.gaussiancross.small_captures import make_config


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.8, 0.99])
def test_masking_hides_whole_blocks(ratio: float) -> None:
    points = np.random.default_rng(0).random((5000, 3)) * 4
    rows = visible_points(points, ratio, 0.5, np.random.default_rng(1))
    assert (np.diff(rows) > 0).all()
    share = len(rows) / len(points)
    assert abs(share - (1 - ratio)) < 0.1
    assert len(rows) > 0
    if 0 < ratio < 0.9:  # blocks, not single points: nearly every hidden point's nearest neighbour is hidden as well
        hidden = np.setdiff1d(np.arange(len(points)), rows)
        few = points[hidden[:200]]
        distance = ((few[:, None] - points[None]) ** 2).sum(-1)
        nearest = np.argsort(distance, axis=1)[:, 1]
        assert np.isin(nearest, hidden).mean() > ratio + 0.1


def test_masking_never_hides_everything() -> None:
    points = np.zeros((10, 3))
    assert len(visible_points(points, 0.9, 1.0, np.random.default_rng(0))) == 10


def test_effective_rank_counts_directions() -> None:
    rng = np.random.default_rng(0)
    assert effective_rank(np.ones((50, 8))) == 0
    line = rng.standard_normal((500, 1)) @ rng.standard_normal((1, 8))
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert effective_rank(rng.standard_normal((20000, 8))) == pytest.approx(8, rel=0.01)
    basis = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    values = rng.standard_normal((400, 8)) * [3, 1, 1, 0.5, 0.1, 0.1, 0, 0] @ basis
    singular = np.linalg.svd(values - values.mean(0), compute_uv=False)
    share = singular[singular > 1e-9] / singular.sum()
    assert effective_rank(values + 7) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)


def test_grid_holds_means_and_says_where_points_are() -> None:
    shape, scenes = (2, 3, 2), 2
    g = torch.Generator().manual_seed(0)
    features, cells = torch.randn(30, 4, generator=g), torch.randint(0, 2 * 12, (30,), generator=g)
    grid = scatter_to_grid(features, cells, scenes, shape)
    assert grid.shape == (2, 5, 2, 3, 2)
    for cell in range(24):
        b, x, y, z = cell // 12, cell % 12 // 6, cell % 6 // 2, cell % 2
        own = features[cells == cell]
        wanted = own.mean(0) if len(own) else torch.zeros(4)
        torch.testing.assert_close(grid[b, :4, x, y, z], wanted)
        assert grid[b, 4, x, y, z] == float(len(own) > 0)


def test_heads_stay_in_their_ranges() -> None:
    settings = HeadSettings(features=3)
    torch.manual_seed(0)
    head = GaussianHead(8, settings, 0.25)
    torch.nn.init.normal_(head.linear.weight, std=20.0)  # far beyond what training reaches
    centres, size = torch.rand(200, 3), torch.tensor([0.1, 0.2, 0.3])
    splats = head(torch.randn(200, 8), centres, size)
    moved = ((splats.means - centres) / size).detach()
    assert float(moved.abs().max()) <= settings.max_offset * (1 + 1e-5)
    assert float(moved.abs().max()) > 0.9 * settings.max_offset
    scales = (splats.scales / size).detach()
    assert settings.min_scale * (1 - 1e-5) <= float(scales.min()) < float(scales.max()) <= settings.max_scale * 1.00001
    fresh = GaussianHead(8, settings, 0.25)(torch.randn(200, 8), centres, size)
    assert float(fresh.opacities.detach().mean()) == pytest.approx(0.25, abs=0.05)


def test_neck_reaches_empty_cells_of_its_own_scene_alone() -> None:
    torch.manual_seed(0)
    grid = torch.zeros(2, 9, 6, 5, 4)
    grid[0, :, 2, 2, 2] = 5
    grid.requires_grad_()
    out = DenseNeck(9, 8, 2)(grid)
    assert out.shape == (2, 120, 8)
    # what an empty cell two steps away says depends on the filled one; rows are x-major
    out[0, (2 * 5 + 2) * 4 + 0].sum().backward()
    assert grid.grad is not None
    assert grid.grad[0, :, 2, 2, 2].abs().sum() > 0
    assert grid.grad[1].abs().sum() == 0


def test_every_voxel_and_every_empty_cell_has_a_gaussian_in_its_place() -> None:
    settings = HeadSettings(grid=(4, 3, 2), width=8, max_offset=1e-6, min_opacity=0.0, max_gaussians=1000)
    torch.manual_seed(0)
    encoder = make_encoder(make_config().encoder)
    model = GaussianCross(encoder, settings, {"text": 6}, 8).eval()
    rng = np.random.default_rng(0)
    clouds, parts, cuboids = [], [], []
    for n in (40, 60):
        points = rng.random((n, 3)) * [4, 3, 2]
        cuboids.append(Cuboid(np.array([2.0, 1.5, 1.0]), np.array([4.0, 3.0, 2.0])))
        colors = rng.random((n, 3))
        parts.append(MeasuredVoxels.of(points, colors, np.arange(n), 0.05, cuboids[-1], settings.grid))
        coord = torch.from_numpy(points).float()
        feat = torch.randn(n, encoder.config.in_channels)
        clouds.append(PointBatch(coord, (coord / 0.05).long(), feat, torch.tensor([n])))
    voxels = MeasuredVoxels.concatenate(parts, 24)
    with torch.no_grad():
        splats = model(PointBatch.concatenate(clouds), voxels)
    for b, n in enumerate((40, 60)):
        own = parts[b]
        torch.testing.assert_close(splats[b].means[:n], own.centres, atol=1e-5, rtol=0)
        shift = torch.logit(splats[b].colors[:n]) - torch.logit(
            own.colors, eps=0.02
        )  # an untrained head changes little
        assert float(shift.abs().mean()) < 0.5
        missing = np.setdiff1d(np.arange(24), own.cells.numpy())
        assert len(splats[b]) == n + len(missing)
        at = cuboids[b].cells(cuboids[b].inverse(splats[b].means[n:].numpy()), settings.grid)
        np.testing.assert_array_equal(at, missing)
    # the same cloud alone: the same Gaussians
    with torch.no_grad():
        alone = model(clouds[1], parts[1])[0]
    torch.testing.assert_close(alone.features, splats[1].features, atol=1e-5, rtol=1e-5)


def made_view(height: int = 6, width: int = 8, features: int = 3) -> RenderedView:
    g = torch.Generator().manual_seed(1)
    return RenderedView(
        torch.rand(height, width, 3, generator=g), torch.randn(height, width, features, generator=g),
        torch.rand(height, width, generator=g) * 3, torch.rand(height, width, generator=g),
    )  # fmt: skip


def test_losses_equal_loops_over_pixels() -> None:
    view = made_view()
    g = torch.Generator().manual_seed(2)
    color, known = torch.rand(6, 8, 3, generator=g), torch.rand(6, 8, generator=g) > 0.4
    depth = torch.rand(6, 8, generator=g) * (torch.rand(6, 8, generator=g) > 0.3)
    colors, depths = [], []
    for y in range(6):
        for x in range(8):
            if known[y, x]:
                colors.append(float((view.color[y, x] - color[y, x]).abs().mean()))
            if depth[y, x] > 0:
                depths.append(float((view.depth[y, x] - depth[y, x]).abs() + 1 - view.alpha[y, x]))
    colored, measured = (where.flatten().nonzero()[:, 0] for where in (known, depth))
    assert float(appearance_loss(view, color, colored)) == pytest.approx(np.mean(colors), rel=1e-5)
    assert float(geometry_loss(view, depth, measured)) == pytest.approx(np.mean(depths), rel=1e-5)
    assert appearance_loss(view, color, torch.arange(0)) is None
    assert geometry_loss(view, depth, torch.arange(0)) is None


def test_cells_average_features_by_weight() -> None:
    view = made_view()
    features, weight = cell_features(view, 2)
    for cell in range(12):
        rows, columns = slice(cell // 4 * 2, cell // 4 * 2 + 2), slice(cell % 4 * 2, cell % 4 * 2 + 2)
        alpha = view.alpha[rows, columns, None]
        wanted = (alpha * view.feature[rows, columns]).sum((0, 1)) / alpha.sum()
        torch.testing.assert_close(features[cell], wanted)
        torch.testing.assert_close(weight[cell], alpha.mean())


def test_contrast_is_least_where_pairs_agree() -> None:
    g = torch.Generator().manual_seed(3)
    target = torch.randn(16, 12, generator=g)
    right, wrong = contrast_loss(target * 3, target, 0.1), contrast_loss(target.roll(1, 0), target, 0.1)
    assert right < 0.1 < 1 < wrong


def test_adaptive_weights_make_all_attributes_pull_alike() -> None:
    values = {"appearance": torch.tensor(0.02), "geometry": torch.tensor(3.0), "semantics": torch.tensor(0.7)}
    leaves = {name: torch.zeros((), requires_grad=True) for name in values}
    losses = {name: value * (1 + leaves[name]) for name, value in values.items()}  # d loss / d leaf = loss
    weights = {"appearance": 1.0, "geometry": 2.0, "semantics": 0.0}
    weighted_total(losses, weights, {n: v.detach() for n, v in losses.items()}).backward()
    assert float(leaves["appearance"].grad) == pytest.approx(1.0)
    assert float(leaves["geometry"].grad) == pytest.approx(2.0)
    assert leaves["semantics"].grad is None
    fixed = weighted_total({n: v.detach() for n, v in losses.items()}, weights, None)
    assert float(fixed) == pytest.approx(0.02 + 6.0)


def test_settings_that_cannot_be() -> None:
    for setting, problem in [
        ("loss.appearance=0 loss.geometry=0 loss.semantics=0", "nothing to learn"),
        ("head.grid=[1,4,4]", "at least 2 cells"),
        ("head.min_scale=2", "below max_scale"),
        ("loss.semantic=1", "did you mean 'loss.semantics'"),
    ]:
        with pytest.raises(ConfigError, match=problem):
            load_config(GaussianCrossConfig, None, setting.split())


def test_a_voxel_has_the_mean_colour_of_its_points() -> None:
    rng = np.random.default_rng(0)
    inverse = np.concatenate([np.arange(7), rng.integers(0, 7, 40)])
    colors = rng.random((47, 3))
    cuboid = Cuboid(np.zeros(3), np.ones(3))
    voxels = MeasuredVoxels.of(rng.random((7, 3)) - 0.5, colors, inverse, 0.1, cuboid, (4, 4, 4))
    for k in range(7):
        np.testing.assert_allclose(voxels.colors[k], colors[inverse == k].mean(0), rtol=1e-6)
