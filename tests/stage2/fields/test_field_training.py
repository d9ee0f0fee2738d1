"""Training of a field: what it learns, that it goes on where it stopped, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from chorus_common.cache import SceneCache
from chorus_common.lifting import LiftingIndex
from chorus_common.runtime.errors import CacheError, ConfigError, WeightsError
from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.recipe import Loss
from stage2_distill.engine.trainer import Trainer
from stage2_distill.fields import FieldConfig, FieldRun, FieldView, load_field, train_field
from stage2_distill.fields.model import GranularityField, fixed_probabilities
from stage2_distill.fields.networks import FeatureDecoder
from stage2_distill.fields.recipe import FieldRecipe, FieldViews
from stage2_distill.fields.regions import read_regions
from stage2_distill.fields.rendering import view_matrices
from tests.stage2.fields.field_scene import make_field_index, make_masks, unit, write_cache

SMALL = FieldConfig(decoder_width=32, decoder_layers=3, iterations=120, min_alpha=0.01, checkpoint_every=50)


def make_recipe(config: FieldConfig) -> FieldRecipe:
    index = make_field_index()
    return FieldRecipe(config, index, read_regions(make_masks(index), "masks", index.grid), range(index.n_views))


def trained(config: FieldConfig, steps: int) -> tuple[FieldRecipe, LiftingIndex]:
    recipe = make_recipe(config)
    trainer = Trainer(recipe, Processes(0, 1))
    for step in range(steps):
        trainer.step(step)
    return recipe, make_field_index()


def test_published_architecture_has_nine_layers_and_two_sums() -> None:
    decoder = FeatureDecoder(16, 256, 9, 512)
    linear = [m for m in decoder.modules() if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(16, 256), *[(256, 256)] * 7, (256, 512)]
    assert len(decoder.blocks) == 2
    x = torch.randn(3, 16)
    plain = torch.relu(decoder.inner(x))
    for block in decoder.blocks:
        plain = plain + block(plain)
    want = decoder.outer(decoder.tail(plain))
    torch.testing.assert_close(decoder(x), want / want.norm(dim=1, keepdim=True))


def test_field_finds_the_level_that_agrees_between_views() -> None:
    """Masks of `part` say the same in every view, the others something else in each: selection has to take `part`."""
    recipe, index = trained(SMALL.model_copy(update={"iterations": 400, "decoder_lr": 3e-3}), 400)
    model = recipe.model
    part = read_regions(make_masks(index), "masks", index.grid)
    chosen, cosines, per_level = [], [], []
    with torch.no_grad():
        for view, matrix in enumerate(view_matrices(index, range(3), min_alpha=0.01)):
            rendered = matrix.render(model.vectors)
            chosen.append(model.probabilities(rendered).argmax(dim=1).numpy())
            said = part.embeddings[part.masks[view, matrix.cells]]  # [X, K, E]
            features = model.decode(rendered).numpy()
            per_level.append(np.einsum("xe,xke->xk", features, said))
            cosines.append((features * said[:, 1]).sum(axis=1))
    assert np.mean(np.concatenate(chosen) == 1) > 0.8
    mean = np.concatenate(per_level).mean(axis=0)
    assert mean[1] > 0.6
    assert mean[1] > mean[[0, 2]].max() + 0.3


def test_vectors_that_no_supervised_cell_shows_stay_zero() -> None:
    recipe, index = trained(SMALL, 20)
    shown = np.zeros(len(index), bool)
    for matrix in recipe.matrices:
        shown[np.unique(matrix.forward.col_indices().numpy())] = True
    moved = (recipe.model.vectors != 0).any(dim=1).numpy()
    assert np.array_equal(moved, shown)


def test_every_view_comes_once_before_one_comes_again() -> None:
    recipe = make_recipe(SMALL)
    drawn = [recipe.batch(step, 0, 1).views for step in range(6)]
    assert sorted(v for b in drawn[:3] for v in b) == sorted(v for b in drawn[3:] for v in b) == [0, 1, 2]
    recipe = make_recipe(SMALL.model_copy(update={"views_per_step": 2}))
    pairs = [recipe.batch(step, 0, 2).views for step in range(9)]
    assert all(1 <= len(set(views)) == len(views) <= 2 for views in pairs)
    assert [recipe.batch(s, 0, 1).views + recipe.batch(s, 1, 2).views for s in range(9)] == pairs


def test_late_terms_begin_at_their_step() -> None:
    config = SMALL.model_copy(update={"iterations": 10, "entropy": 0.0, "late_entropy": 0.5, "variance": 2.0})
    trainer = Trainer(make_recipe(config), Processes(0, 1))
    for step in range(10):
        record = trainer.step(step).record
        terms = record["terms"]
        extra = 0.5 * terms["entropy"] + 2.0 * terms["variance"] if step >= 5 else 0.0
        assert record["loss"] == pytest.approx(terms["distill"] + extra, rel=1e-5)
        assert (terms["variance"] > 0) == (step >= 5)


def test_nothing_is_chosen_before_its_step() -> None:
    config = SMALL.model_copy(update={"iterations": 10, "select_from": 0.5})
    trainer = Trainer(make_recipe(config), Processes(0, 1))
    granularity = trainer.model.get_submodule("granularity")
    first = {k: v.clone() for k, v in granularity.state_dict().items()}
    for step in range(5):
        assert trainer.step(step).record["terms"]["entropy"] == pytest.approx(np.log(3) / 3, abs=1e-4)
    assert all(torch.equal(v, first[k]) for k, v in granularity.state_dict().items())
    trainer.step(5)
    assert any(not torch.equal(v, first[k]) for k, v in granularity.state_dict().items())


def test_fixed_selections_and_unknown_ones() -> None:
    assert fixed_probabilities("part", ("whole", "part")).tolist() == [0.0, 1.0]  # type: ignore[union-attr]
    assert fixed_probabilities("average", ("whole", "part")).tolist() == [0.5, 0.5]  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"selection 'parts': use learned, average or a level \(whole, part\)"):
        GranularityField(SMALL.model_copy(update={"selection": "parts"}), 3, ("whole", "part"), 8)
    with pytest.raises(ValidationError, match="blur must be odd"):
        FieldConfig(blur=2)


def test_no_gradient_reaches_the_vectors_through_the_probabilities() -> None:
    model = GranularityField(SMALL, 4, ("a", "b", "c"), 8)
    vectors = torch.randn(4, 16, requires_grad=True)
    assert (
        not torch.autograd.grad(model.probabilities(vectors).square().sum(), vectors, allow_unused=True)[0] is not None
    )


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SceneCache.open(write_cache(tmp_path / "store"))
    config = SMALL.model_copy(update={"iterations": 30, "checkpoint_every": 10})
    run = FieldRun(cache, "masks", ("v1",))
    whole = train_field(config, run, tmp_path / "whole")
    assert whole.card.views == ("v0", "v2")
    loss = FieldRecipe.loss

    def dies(self: FieldRecipe, batch: FieldViews, step: int) -> Loss:
        if step == 17:
            raise RuntimeError("killed")
        return loss(self, batch, step)

    monkeypatch.setattr(FieldRecipe, "loss", dies)
    with pytest.raises(RuntimeError, match="killed"):
        train_field(config, run, tmp_path / "killed")
    assert load_field(tmp_path / "killed").card.steps == 10
    monkeypatch.setattr(FieldRecipe, "loss", loss)
    train_field(config, run, tmp_path / "killed")
    for name in ("model.safetensors", "field.json", "train.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(ConfigError, match="other settings"):
        train_field(config.model_copy(update={"seed": 1}), run, tmp_path / "whole")


def test_wrong_input_is_one_line(tmp_path: Path) -> None:
    cache = SceneCache.open(write_cache(tmp_path / "store"))
    with pytest.raises(CacheError, match="no view 'v9'"):
        train_field(SMALL, FieldRun(cache, "masks", ("v9",)), tmp_path / "a")
    with pytest.raises(CacheError, match="no view has a cell with a mask at every level"):
        train_field(SMALL.model_copy(update={"min_alpha": 1.0}), FieldRun(cache, "masks"), tmp_path / "a")
    assert not (tmp_path / "a" / "train.json").exists()  # nothing is claimed before it can work
    with pytest.raises(ConfigError, match="no field here"):
        load_field(tmp_path)
    train_field(SMALL.model_copy(update={"iterations": 2}), FieldRun(cache, "masks"), tmp_path / "b")
    other = SceneCache.open(write_cache(tmp_path / "other", seed=1))
    with pytest.raises(CacheError, match="is not the cache that the field of scene room was trained on"):
        FieldView(load_field(tmp_path / "b"), other)
    (tmp_path / "b" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"model\.safetensors: not a valid safetensors file"):
        load_field(tmp_path / "b")


def test_answers_per_gaussian_cell_and_pixel(tmp_path: Path) -> None:
    cache = SceneCache.open(write_cache(tmp_path / "store"))
    config = SMALL.model_copy(update={"iterations": 40})
    view = FieldView(train_field(config, FieldRun(cache, "masks"), tmp_path / "f"), cache)
    rng = np.random.default_rng(0)
    queries, phrases = unit(rng.standard_normal((2, 64))), unit(rng.standard_normal((3, 64)))
    features = view.gaussian_features()
    assert np.array_equal(np.linalg.norm(features, axis=1) > 0, view.seen)
    slow = np.zeros((len(features), 2))
    for i in np.flatnonzero(view.seen):
        for q in range(2):
            pairs = [np.exp(10 * np.array([features[i] @ queries[q], features[i] @ p])) for p in phrases]
            slow[i, q] = min(pair[0] / pair.sum() for pair in pairs)
    np.testing.assert_allclose(view.gaussian_relevancy(queries, phrases), slow, atol=1e-5)
    cells = view.cell_relevancy(1, queries, phrases)
    matrix = view_matrices(cache.lifting(), [1], min_alpha=config.min_alpha)[0]
    assert cells.shape == (12, 16, 2)
    assert np.array_equal(np.flatnonzero(np.isfinite(cells[..., 0]).ravel()), matrix.cells)
    cameras = cache.cameras()
    pixels = view.pixel_relevancy(cameras.viewmats[1], cameras.intrinsics[1], 64, 48, queries, phrases)
    assert pixels.shape == (48, 64, 2)
    assert np.isfinite(pixels).any()
