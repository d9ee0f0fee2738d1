"""The split and the folded projector against the plain one over the wide latent."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from stage2_distill.encoder.hierarchy import Level
from stage2_distill.encoder.latent import DenseLatent, Latent, LevelLatent
from stage2_distill.encoder.layout import Layout
from stage2_distill.encoder.model import LevelFeatures
from stage2_distill.encoder.products import fast_products
from stage2_distill.folded_projector import FoldedProjector
from stage2_distill.projectors import NormInputProjector
from stage2_distill.split_projector import SplitProjector


def tree(sizes: list[int], widths: list[int], seed: int, offset: float = 0.0) -> list[LevelFeatures]:
    """Random levels, finest first; every coarse voxel has a child."""
    draw = torch.Generator().manual_seed(seed)
    levels = []
    for s, (n, width) in enumerate(zip(sizes, widths)):
        cluster = None
        if s:
            others = torch.randint(0, n, (sizes[s - 1] - n,), generator=draw)
            cluster = torch.cat([torch.arange(n), others])[torch.randperm(sizes[s - 1], generator=draw)]
        grid = torch.arange(n)[:, None].expand(n, 3)
        batch, offset = torch.zeros(n, dtype=torch.int64), torch.tensor([n])
        level = Level(grid.float(), grid, batch, offset, layout=Layout.of(grid, offset), cluster=cluster)
        levels.append(LevelFeatures(torch.randn(n, width, generator=draw) * 2 + offset, level))
    return levels


def wide(levels: list[LevelFeatures], upcast: int) -> torch.Tensor:
    """The latent as `Encoder.forward` makes it."""
    x = levels[-1].feat
    for s in reversed(range(len(levels) - 1)):
        x = x[levels[s + 1].level.cluster]
        if s >= len(levels) - 1 - upcast:
            x = torch.cat([levels[s].feat, x], dim=1)
    return x


def projector(width: int, seed: int = 0) -> NormInputProjector:
    torch.manual_seed(seed)
    made = NormInputProjector(width, 72, 24).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def gathered(latent: Latent, function: object, size: int, channels: int) -> torch.Tensor:
    found = torch.full((len(latent), channels), torch.nan)
    for block in latent.blocks(size):
        assert torch.isnan(found[block.voxels]).all(), "every voxel is in one block"
        found[block.voxels] = function(block)  # type: ignore[operator]
    return found


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    size=st.integers(1, 80),
    upcast=st.integers(0, 4),
    seed=st.integers(0, 1000),
    offset=st.sampled_from([0.0, 3.0]),
)
def test_all_forms_give_the_numbers_of_the_wide_latent(
    sizes: list[int], size: int, upcast: int, seed: int, offset: float
) -> None:
    sizes = sorted(sizes, reverse=True)
    levels = tree(sizes, [6, 10, 14, 18, 22][: len(sizes)], seed, offset)
    latent = LevelLatent(levels, upcast)
    x = wide(levels, upcast)
    plain = projector(x.shape[1])
    texts = torch.nn.functional.normalize(torch.randn(5, 24), dim=-1)
    with torch.no_grad():
        expected = plain(x)
    split = SplitProjector(plain)
    assert torch.equal(gathered(latent, lambda block: block.dense(), size, x.shape[1]), x)
    picked = torch.randint(0, sizes[0], (9,))
    assert torch.equal(latent.rows(picked), x[picked])
    for library in ("torch", "onednn"):
        with fast_products(library=library):
            torch.testing.assert_close(gathered(latent, split, size, 24), expected, rtol=2e-4, atol=2e-5)
            torch.testing.assert_close(gathered(DenseLatent(x), split, size, 24), expected, rtol=2e-4, atol=2e-5)
            folded = gathered(latent, FoldedProjector(split, texts), size, 5)
            torch.testing.assert_close(folded, expected @ texts.T, rtol=2e-4, atol=2e-5)


def test_a_subset_of_voxels() -> None:
    levels = tree([40, 20, 6], [4, 6, 8], seed=3)
    latent, x = LevelLatent(levels, 2), wide(levels, 2)
    wanted = torch.tensor([39, 3, 17, 5, 30])
    found = {int(v): row for block in latent.blocks(2, wanted) for v, row in zip(block.voxels, block.dense())}
    assert sorted(found) == sorted(wanted.tolist())
    for voxel, row in found.items():
        assert torch.equal(row, x[voxel])


def test_coarse_rows_are_in_few_blocks() -> None:
    """Blocks follow the tree: products of coarse levels are nearly all taken once."""
    levels = tree([4000, 1500, 500, 150, 50], [2] * 5, seed=1)
    latent = LevelLatent(levels, 4)
    counts = [sum(len(feat) for feat in feats) for feats in zip(*(block.feats for block in latent.blocks(200)))]
    assert counts[0] == 4000
    for count, features in zip(counts[1:], levels[1:]):
        assert len(features.feat) <= count <= len(features.feat) + 19, "20 blocks cut 19 cells of a level at most"


def test_no_wide_array_of_all_voxels() -> None:
    """Nothing as wide as the latent or the hidden layer has more rows than a block."""
    levels = tree([3000, 1500, 500], [20, 30, 40], seed=2)
    split, latent = SplitProjector(NormInputProjector(90, 360, 10)), LevelLatent(levels, 2)
    list(latent.blocks(100))
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.is_floating_point() and out.ndim == 2 and out.shape[1] >= 90:
                largest = max(largest, len(out))
            return out

    with Watch():
        for block in latent.blocks(100):
            split(block)
    assert 0 < largest <= 360, "the first layer's weight has 360 rows, a block 100"
