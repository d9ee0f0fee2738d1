"""The differentiable CPU rasteriser against its slow twin, finite differences, and its own promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from chorus_common.rasterize import get_backend
from chorus_common.scene import GaussianScene, canonical_quats
from stage2_distill.gaussiancross.raster.cpu import rasterize_cpu
from stage2_distill.gaussiancross.rendering import Splats, prune, render
from tests.stage2.gaussiancross.splat_twin import rasterize_twin, some_camera, some_gaussians

NAMES = ("means", "quats", "scales", "opacities", "values")


def gradients(rasterize, parts: list[Tensor], camera: tuple[Tensor, Tensor], size: tuple[int, int]) -> list[Tensor]:
    """Gradients of a fixed random functional of picture, depth and alpha."""
    leaves = [p.clone().requires_grad_() for p in parts]
    outputs = rasterize(*leaves, *camera, *size)
    g = torch.Generator().manual_seed(5)
    total = sum((o * torch.randn(o.shape, generator=g, dtype=torch.float64).to(o.dtype)).sum() for o in outputs)
    total.backward()
    return [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_pictures_and_gradients_equal_the_twins(seed: int, affine: bool) -> None:
    parts, camera, size = some_gaussians(seed, 40, 5), some_camera(37, 21, affine=affine), (37, 21)
    for ours, theirs in zip(rasterize_cpu(*parts, *camera, *size), rasterize_twin(*parts, *camera, *size)):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)
    found, wanted = (gradients(r, parts, camera, size) for r in (rasterize_cpu, rasterize_twin))
    for name, ours, theirs in zip(NAMES, found, wanted):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        assert theirs.abs().max() > 0


def test_gradients_equal_finite_differences() -> None:
    parts, camera = some_gaussians(11, 6, 2), some_camera(14, 10, affine=True)
    parts[3] = parts[3].clamp(0.2, 0.9)  # away from the cut-offs, which finite differences cannot cross
    leaves = [p.requires_grad_() for p in parts]

    def outputs(*arguments: Tensor) -> tuple[Tensor, ...]:
        return rasterize_cpu(*arguments, *camera, 14, 10)

    assert torch.autograd.gradcheck(outputs, leaves, eps=1e-7, atol=1e-4, rtol=1e-3)


def test_single_precision_follows_double() -> None:
    parts, camera = some_gaussians(2, 60, 4), some_camera(40, 24)
    single = [p.float() for p in parts]
    for ours, theirs in zip(rasterize_cpu(*single, *camera, 40, 24), rasterize_cpu(*parts, *camera, 40, 24)):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, atol=2e-3, rtol=1e-3)
    for ours, theirs in zip(*(gradients(rasterize_cpu, p, camera, (40, 24)) for p in (single, parts))):
        assert (ours.double() - theirs).abs().mean() < 1e-3 * theirs.abs().mean() + 1e-6


def test_same_bytes_with_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, camera = some_gaussians(3, 80, 6, dtype=torch.float32), some_camera(50, 43)
    runs = []
    for threads in ("1", "3"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
        pictures = [o.numpy().tobytes() for o in rasterize_cpu(*parts, *camera, 50, 43)]
        runs.append([*pictures, *(g.numpy().tobytes() for g in gradients(rasterize_cpu, parts, camera, (50, 43)))])
    assert runs[0] == runs[1]


def test_the_rule_is_that_of_stage_ones_rasteriser() -> None:
    means, quats, scales, opacities, values = (p.numpy() for p in some_gaussians(4, 120, 3, dtype=torch.float32))
    scene = GaussianScene(means, canonical_quats(quats), scales, opacities, (values + 1) / 2)
    view, k = some_camera(48, 36)
    theirs = get_backend("cpu").render(scene, view.numpy(), k.numpy(), 48, 36)
    parts = [torch.from_numpy(x) for x in (scene.means, scene.quats, scene.scales, scene.opacities, scene.colors)]
    picture, depth, alpha = rasterize_cpu(*parts, view, k, 48, 36)
    apart = np.abs(picture.numpy() - theirs.color).max(-1)
    assert (apart > 1e-3).mean() < 0.01  # a pixel on the edge of a cut-off may fall to either side
    assert np.median(np.abs(alpha.numpy() - theirs.alpha)) < 1e-5
    hit = theirs.alpha > 0.1
    assert np.median(np.abs((depth / alpha.clamp(min=1e-6)).numpy() - theirs.depth)[hit]) < 1e-4


def test_a_gaussian_behind_the_camera_or_far_aside_leaves_no_trace() -> None:
    parts, camera = some_gaussians(5, 3, 2), some_camera(20, 20)
    parts[0] = torch.tensor([[3.4, 0.8, 1.8], [0.0, 0.0, 0.0], [-50.0, 400.0, 0.0]], dtype=torch.float64)
    parts[3] = torch.full((3,), 0.8, dtype=torch.float64)
    alone = [p[1:2] for p in parts]
    for ours, theirs in zip(rasterize_cpu(*parts, *camera, 20, 20), rasterize_cpu(*alone, *camera, 20, 20)):
        assert torch.equal(ours, theirs)
    grads = gradients(rasterize_cpu, parts, camera, (20, 20))
    assert all((g[[0, 2]] == 0).all() for g in grads)
    assert all(torch.isfinite(g).all() for g in grads)


def test_nothing_to_see_is_an_empty_picture() -> None:
    camera = some_camera(16, 12)
    picture, depth, alpha = rasterize_cpu(*(p[:0] for p in some_gaussians(0, 3, 2)), *camera, 16, 12)
    assert picture.shape == (12, 16, 2)
    assert not picture.any()
    assert not depth.any()
    assert not alpha.any()


def test_types_must_agree() -> None:
    parts = some_gaussians(0, 3, 2)
    with pytest.raises(TypeError, match="all float32 or all float64"):
        rasterize_cpu(parts[0].float(), *parts[1:], *some_camera(8, 8), 8, 8)


def splats_of(parts: list[Tensor], features: int) -> Splats:
    means, quats, scales, opacities, values = parts
    return Splats(means, quats, scales, opacities, values[:, :3], values[:, 3 : 3 + features])


def test_render_divides_depth_and_feature_by_the_weight() -> None:
    parts, camera = some_gaussians(6, 50, 5), some_camera(24, 18)
    parts[4][:, 3:] = torch.tensor([2.0, -1.0], dtype=torch.float64)  # one feature everywhere
    view = render(splats_of(parts, 2), *camera, 24, 18, "cpu")
    hit = view.alpha > 0.01
    torch.testing.assert_close(view.feature[hit], parts[4][:1, 3:].expand(int(hit.sum()), 2))
    nearest, farthest = 0.5, 4.0
    assert ((view.depth[hit] > nearest) & (view.depth[hit] < farthest)).all()


def test_pruning_keeps_the_most_opaque_in_their_order_and_hardly_changes_the_picture() -> None:
    parts, camera = some_gaussians(7, 90, 4), some_camera(30, 20)
    splats = splats_of(parts, 1)
    kept = prune([splats], 0.3, 20)[0]
    wanted = sorted(splats.opacities.argsort(descending=True)[:20].tolist())
    assert torch.equal(kept.opacities, splats.opacities[wanted])
    assert (prune([splats], 0.3, 1000)[0].opacities >= 0.3).all()
    (faint,) = prune([splats], 1 / 255, 1000)  # what the alpha rule skips anyway
    for name in ("color", "alpha", "depth"):
        whole, pruned = (getattr(render(s, *camera, 30, 20, "cpu"), name) for s in (splats, faint))
        assert torch.equal(whole, pruned)


@pytest.mark.gpu
@pytest.mark.parametrize("affine", [False, True])
def test_gsplat_draws_the_same_and_has_the_same_gradients(affine: bool) -> None:
    from stage2_distill.gaussiancross.raster.gsplat_cuda import rasterize_gsplat

    parts, camera = some_gaussians(8, 60, 6, dtype=torch.float32), some_camera(40, 32, affine=affine)
    there = [p.cuda() for p in parts]
    found = [o.cpu() for o in rasterize_gsplat(*there, *camera, 40, 32)]
    for ours, theirs in zip(found, rasterize_cpu(*parts, *camera, 40, 32)):
        assert ((ours - theirs).abs() > 1e-3).float().mean() < 0.02  # pixels on the edge of a cut-off

    def functional(rasterize, leaves: list[Tensor]) -> None:
        picture, depth, alpha = rasterize(*leaves, *camera, 40, 32)
        ((picture.square().mean() + depth.mean() + alpha.mean()) * 100).backward()

    leaves = [[p.clone().requires_grad_() for p in group] for group in (there, parts)]
    functional(rasterize_gsplat, leaves[0])
    functional(rasterize_cpu, leaves[1])
    for ours, theirs in zip(*leaves):
        a, b = ours.grad.cpu().flatten(), theirs.grad.flatten()
        assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.99
