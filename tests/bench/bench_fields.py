"""GAGS fields: a step and its losses against loops over regions, a query against three-level decoding.

The baselines are what the published code does: region losses that walk over the ids of a picture, two selections per
region (utils/loss_utils.py:32-57, 103-136), and LangSplat's evaluation, which decodes and compares one field per level
and keeps the level with the highest relevancy. CPU seconds of this process.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from chorus_common.text.relevancy import relevancy
from stage2_distill.fields.losses import compact, region_balanced_l1, region_variance
from stage2_distill.fields.networks import FeatureDecoder
from tests.bench.measure import interleaved, seconds
from tests.bench.row import Row

COMMAND = "make bench"
CELLS, WIDTH, REGIONS, QUERIES = 1200, 512, 150, 8


def looped_losses(predicted: Tensor, target: Tensor, rendered: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(balanced L1, in-region variance) region by region."""
    l1, variance = [], []
    for r in ids.unique():
        inside = ids == r
        l1.append((predicted[inside] - target[inside]).abs().mean())
        variance.append(inside.sum() * rendered[inside].var(dim=0, unbiased=False).mean())
    return torch.stack(l1).mean(), torch.stack(variance).sum() / len(ids)


def rows() -> list[Row]:
    g = torch.Generator().manual_seed(0)
    predicted = torch.randn(CELLS, WIDTH, generator=g, requires_grad=True)
    target, rendered = torch.randn(CELLS, WIDTH, generator=g), torch.randn(CELLS, 16, generator=g, requires_grad=True)
    ids = torch.randint(0, REGIONS, (CELLS,), generator=g)

    def fast() -> list[Tensor]:
        regions, count = compact(ids)
        found = [region_balanced_l1(predicted, target, regions, count), region_variance(rendered, regions, count)]
        sum(found).backward()  # type: ignore[union-attr]
        return found

    def slow() -> list[Tensor]:
        found = list(looped_losses(predicted, target, rendered, ids))
        sum(found).backward()  # type: ignore[union-attr]
        return found

    for a, b in zip(fast(), slow()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    return [
        interleaved(fast, slow, repeats=20).row(
            "fields/region-losses", "CPU s (ratio = times faster)", COMMAND,
            f"the same region by region: {CELLS} cells, {REGIONS} regions, {WIDTH} channels, with gradients",
            times_faster=True,
        ),
        query_row(g),
        large_field_row(),
    ]  # fmt: skip


def query_row(g: torch.Generator) -> Row:
    """Relevancy of a picture's vectors for some queries: one decoder against three and the maximum over levels."""
    decoders = [FeatureDecoder(16, 256, 9, WIDTH) for _ in range(3)]
    vectors = [torch.randn(CELLS, 16, generator=g) for _ in decoders]
    words = torch.nn.functional.normalize(torch.randn(QUERIES + 4, WIDTH, generator=g), dim=1).numpy()
    queries, phrases = words[:QUERIES], words[QUERIES:]

    @torch.inference_mode()
    def level(k: int) -> np.ndarray:
        return relevancy(decoders[k](vectors[k]).numpy(), queries, phrases)

    times = interleaved(lambda: level(0), lambda: np.max([level(k) for k in range(3)], axis=0), repeats=3)
    return times.row(
        "fields/query", "CPU s (ratio = times faster)", COMMAND,
        f"three-level decoding of the same picture ({CELLS} cells, {QUERIES} queries, published decoder)",
        times_faster=True,
    )  # fmt: skip


def large_field_row() -> Row:
    """CPU minutes for the default schedule on a room of 200,000 Gaussians, from the time of a few of its steps.

    Pictures of 640x480 with cells of 16, masks and 512-d embeddings at random: what they say costs no time.
    """
    from chorus_common.lifting import CellGrid, LiftingIndex
    from chorus_common.rasterize import get_backend
    from data_manifests.synthetic import RoomOptions, generate_room
    from stage2_distill.engine.distributed import Processes
    from stage2_distill.engine.trainer import Trainer
    from stage2_distill.fields import FieldConfig
    from stage2_distill.fields.recipe import FieldRecipe
    from stage2_distill.fields.regions import Regions

    grid, n_views, masks = CellGrid(640, 480, 16), 3, 200
    room = generate_room(0, RoomOptions(gaussians=200_000, views=n_views, width=640, height=480))
    render = get_backend("cpu").render
    hits = [
        render(room.scene, v, k, 640, 480, grid=grid, interpolation="bilinear").hits
        for v, k in zip(room.cameras.viewmats, room.cameras.intrinsics)
    ]
    index = LiftingIndex.build([h for h in hits if h is not None], room.scene.means, grid)
    rng = np.random.default_rng(0)
    words = rng.standard_normal((3 * n_views * masks, WIDTH)).astype(np.float32)
    levels = rng.integers(0, masks, (n_views, grid.cells, 3)).astype(np.int32)
    own = masks * (3 * np.arange(n_views)[:, None, None] + np.arange(3))
    regions = Regions(("whole", "part", "subpart"), levels + own.astype(np.int32), words)
    config = FieldConfig()
    trainer = Trainer(FieldRecipe(config, index, regions, range(n_views)), Processes(0, 1))
    late = config.regulation_step  # with all terms
    trainer.step(late)
    step = seconds(lambda: trainer.step(late), repeats=6)
    minutes = step * config.iterations / 60
    return Row("fields/train-200k", minutes, f"CPU min for {config.iterations} steps of {step:.3f} s", minutes, COMMAND)
