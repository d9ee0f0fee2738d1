"""The released Chorus's recipe: every setting does what it says, a step's loss is the plain formula's in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import ConfigError
from stage2_distill.data.dataset import SceneEntry
from stage2_distill.data.target_space import TargetSpace
from stage2_distill.distill import DistillRecipe, train
from stage2_distill.engine.distributed import Processes
from stage2_distill.engine.optim import set_learning_rate
from stage2_distill.engine.schedule import learning_rate
from stage2_distill.settings import AdaptConfig, TrainConfig
from stage2_distill.start import TrainData
from stage2_distill.student import export_release, load_student
from tests.stage2.store_fakes import MemoryStore, make_store
from tests.stage2.store_fakes import make_standardisers as standardisers_of

RECIPES = Path("evaluation/recipes")
CPU = torch.device("cpu")
CHANNELS = {"lang": 8, "dino": 12, "pe_spatial": 16}
SMALL = (
    "epochs=2", "batch_size=2", "projector_hidden=32", "threads=1", "amp=off", "data.chunks.min_rows=20",
    "data.workers=0",
    "encoder.overrides.enc_channels=[16, 32]", "encoder.overrides.enc_num_head=[1, 2]",
    "encoder.overrides.upcast=1", "data.max_voxels=150", "data.chunks.size=0.3", "data.chunks.stride=0.2",
    "data.chunks.heights={}",
)  # fmt: skip


def entries(n: int = 500, scenes: int = 4, teachers: dict[str, int] = CHANNELS) -> list[SceneEntry]:
    """Rooms with labels and instances; every other one is of the data set "scannetpp"."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(scenes):
        store = make_store(rng, n, teachers=dict(teachers), name=f"room{i}")
        scene = store.gaussians
        assert scene.labels is not None
        instances = (scene.labels * 2 + (scene.means[:, 0] > 1)).astype(np.int32)
        store.gaussians = replace(scene, means=scene.means * 0.2, instances=instances)  # several to a voxel
        found.append(SceneEntry("scannetpp" if i % 2 else "scannet", f"room{i}", f"fp{i}", store))
    return found


def settings_of(recipe: str, *settings: str) -> TrainConfig:
    small = [s for s in SMALL if "encoder" not in s] if "student=" in " ".join(settings) else SMALL
    return load_config(TrainConfig, RECIPES / recipe, (*small, *settings))


def recipe_of(config: TrainConfig, data: list[SceneEntry]) -> DistillRecipe:
    recipe = DistillRecipe(config, TrainData(data, [], standardisers_of(data)), CPU)
    recipe.prepare(Processes(0, 1))
    return recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of `lang` and `dino`, trained by the recipe."""
    out = tmp_path_factory.mktemp("run")
    data = entries(teachers={"lang": 8, "dino": 12})
    config = settings_of("chorus-3dgs/train.toml", "teachers.lang.labels.min_rows=5", "teachers.lang.labels.start=0")
    train(config, TrainData(data, data[:1], standardisers_of(data), frozenset({"lang"})), out, CPU)
    return out


def lifted(store: MemoryStore, recipe: DistillRecipe, name: str) -> NDArray[np.float64]:
    """The teacher's own features of all Gaussians [N, C], lifted entry by entry in float64."""
    index = store.index
    standardiser = standardisers_of(entries())[name]
    values = store.cells[name].reshape(-1, CHANNELS[name]).astype(np.float64)
    own = standardiser.phi * values @ standardiser.rotation + standardiser.mean
    out = np.zeros((len(index), CHANNELS[name]))
    for row in range(len(index)):
        span = slice(index.indptr[row], index.indptr[row + 1])
        weight = index.weights[span].astype(np.float64)
        if len(weight):
            out[row] = weight @ own[index.columns[span]] / weight.sum()
    return out


def plain_loss(predicted: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """(1 - cos) + SmoothL1, means over rows and channels."""
    cosine = (predicted * target).sum(1) / np.linalg.norm(predicted, axis=1) / np.linalg.norm(target, axis=1)
    far = np.abs(predicted - target)
    smooth = np.where(far < 1, 0.5 * far**2, far - 0.5)
    return float((1 - cosine).mean() + smooth.mean())


def plain_contrast(halves: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> float:
    a, b = (np.stack([h[k] / np.linalg.norm(h[k]) for h in halves]) for k in (0, 1))
    logits = a @ b.T / 0.2
    both = 0.0
    for matrix in (logits, logits.T):
        both += float(np.mean([np.log(np.exp(row).sum()) - row[k] for k, row in enumerate(matrix)]))
    return both / 2


def test_a_step_of_the_release_in_float64(trained: Path) -> None:
    """Targets are found anew from the stores by the colour and opacity of every voxel's input, heads and losses are
    computed in float64: the step's loss is that number.
    """
    data = entries()
    config = settings_of(
        "chorus-3dgs/join.toml", f"student={trained}", "teachers.lang.labels.min_rows=5",
        "teachers.pe_spatial.labels.min_rows=5", "seed=5",
    )  # fmt: skip
    recipe = recipe_of(config, data)
    batch = recipe.batch(0, 0, 2)
    student = recipe.model.eval()
    found = recipe.loss(batch, 0)
    latent = student.encoder(batch.points).detach().double().numpy()
    total = 0.0
    for name in CHANNELS:
        target = batch.targets[name]
        head = student.projector(name).double()
        with torch.no_grad():
            everywhere = head(torch.from_numpy(latent)).numpy()
        head.float()
        if name != "pe_spatial":
            everywhere = everywhere / np.linalg.norm(everywhere, axis=1, keepdims=True)
        losses, contrasts = [], []
        labels = batch.labels.get(name)
        for cloud, scene in enumerate(batch.scenes):
            store = next(e.store for e in data if e.scene_id == scene)
            assert isinstance(store, MemoryStore)
            rows = target.rows[target.cloud == cloud].numpy()
            # the release's augmentation leaves colours and opacities alone: they say which Gaussian is a voxel's input
            inputs = batch.points.feat[rows, :4].numpy()
            known = np.concatenate([store.gaussians.colors * 2 - 1, store.gaussians.opacities[:, None]], axis=1)
            member = np.abs(inputs[:, None] - known[None]).max(2).argmin(1)
            wanted = lifted(store, recipe, name)[member]
            assert (np.linalg.norm(wanted, axis=1) > 0.01).all()
            if name != "pe_spatial":
                wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
            np.testing.assert_allclose(target.values[target.cloud == cloud], wanted, atol=5e-3)
            losses.append(plain_loss(everywhere[rows], wanted))
            if labels is None:
                continue
            halves = []
            truth = store.gaussians.labels if name == "lang" else store.gaussians.instances
            assert truth is not None
            columns = np.split(labels.half_sums.columns.numpy(), labels.half_sums.indptr[1:-1].tolist())
            pairs = [p for p, c in zip(zip(columns[::2], columns[1::2]), labels.cloud.tolist()) if c == cloud]
            for pair in pairs:
                both = np.concatenate(pair)
                assert set(both) <= set(rows)  # only voxels with a target are pooled
                assert len({int(truth[m]) for m in member[np.searchsorted(rows, both)]}) == 1
                halves.append((everywhere[pair[0]].sum(0), everywhere[pair[1]].sum(0)))
            counts = np.bincount(truth[member])
            assert len(pairs) == int((counts >= 5).sum())
            contrasts.append(plain_contrast(halves))
        assert (name == "dino") == (labels is None)
        total += float(np.mean(losses)) + 0.02 * (float(np.mean(contrasts)) if contrasts else 0.0)
    assert found.total is not None
    assert float(found.total.detach()) == pytest.approx(total, abs=5e-4)


def test_the_first_update_is_adamws_with_rates_by_name(trained: Path) -> None:
    """One optimiser step against AdamW and OneCycleLR of PyTorch, with parameters grouped by "block" in their names."""
    config = settings_of("chorus-3dgs/train.toml")
    data = entries(teachers={"lang": 8, "dino": 12})
    recipe = recipe_of(config, data)
    twin = recipe_of(config, data).model
    found = recipe.loss(recipe.batch(0, 0, 2), 0).total
    assert found is not None
    found.backward()
    torch.nn.utils.clip_grad_norm_(recipe.model.parameters(), 1.0)
    for a, b in zip(recipe.model.parameters(), twin.parameters()):
        b.grad = None if a.grad is None else a.grad.clone()
    named = dict(twin.named_parameters())
    groups = [
        {"params": [p for n, p in named.items() if ("block" in n) == slow], "lr": lr}
        for slow, lr in ((False, 2e-3), (True, 2e-4))
    ]
    other = torch.optim.AdamW(groups, lr=2e-3, weight_decay=0.05)
    torch.optim.lr_scheduler.OneCycleLR(
        other, [2e-3, 2e-4], total_steps=recipe.steps, pct_start=0.05, div_factor=10, final_div_factor=1000
    )
    other.step()
    optimizer = recipe.make_optimizer()
    set_learning_rate(optimizer, learning_rate(0, recipe.steps, recipe.optim))
    for group in optimizer.param_groups:
        group["betas"] = (0.95, 0.999)
    optimizer.step()
    for name, parameter in recipe.model.named_parameters():
        torch.testing.assert_close(parameter, named[name], rtol=0, atol=1e-7)


def test_what_the_recipe_trains_has_the_releases_layout(trained: Path, tmp_path: Path) -> None:
    student = load_student(trained)
    assert {n: (t.space, t.projector) for n, t in student.config.teachers.items()} == {
        "lang": ("unit", "norm_input"), "dino": ("unit", "norm_input"),
    }  # fmt: skip
    assert not any(key.startswith("standardisers.") for key in student.state_dict())
    export_release(student, tmp_path / "x.pth")
    back = load_student(tmp_path / "x.pth")
    for key, value in student.state_dict().items():
        assert torch.equal(value, back.state_dict()[key])


def test_a_teacher_joins_a_trained_student(trained: Path, tmp_path: Path) -> None:
    data = entries()
    config = settings_of("chorus-3dgs/join.toml", f"student={trained}")
    before, recipe = load_student(trained), recipe_of(config, data)
    assert recipe.joined == ("pe_spatial",)
    start, old = recipe.model.state_dict(), before.state_dict()
    assert {k for k in start if k not in old} == {k for k in start if k.startswith("projectors.pe_spatial.")}
    assert all(torch.equal(start[k], old[k]) for k in old)
    train(config, TrainData(data, [], standardisers_of(data)), tmp_path, CPU)
    after = load_student(tmp_path)
    assert {n: t.space for n, t in after.config.teachers.items()} == {
        "lang": "unit",
        "dino": "unit",
        "pe_spatial": "plain",
    }
    export_release(after, tmp_path / "x.pth")
    assert load_student(tmp_path / "x.pth").teachers == after.teachers


def test_another_space_than_the_heads_is_refused(trained: Path) -> None:
    with pytest.raises(ConfigError, match=r"teachers.lang.space is 'plain', the student's head is 'unit'"):
        recipe_of(settings_of("chorus-3dgs/join.toml", f"student={trained}", "teachers.lang.space=plain"), entries())


def test_a_teacher_is_asked_about_its_data_sets_alone() -> None:
    config = settings_of("chorus-3dgs/train.toml", 'teachers.dino.datasets=["scannetpp"]')
    data = entries(teachers={"lang": 8, "dino": 12})
    recipe = recipe_of(config, data)
    for number, scene in enumerate(recipe.dataset.scenes):
        assert set(recipe.dataset.sample(0, number, number).targets) == (
            {"lang", "dino"} if scene.dataset == "scannetpp" else {"lang"}
        )
    with pytest.raises(
        ConfigError, match=r"teachers.dino.datasets names 'kitti'; the scenes are of scannet, scannetpp"
    ):
        recipe_of(settings_of("chorus-3dgs/train.toml", 'teachers.dino.datasets=["kitti"]'), data)


def test_short_targets_do_not_count() -> None:
    torch.manual_seed(0)
    from stage2_distill.data.batch import TeacherTarget

    offset, phi = torch.randn(6), 0.3
    values = torch.randn(40, 6)
    values[3] = -offset  # zero in the teacher's own space
    values[7] = -offset + 1e-3
    target = TeacherTarget(torch.arange(40), values, torch.rand(40), torch.zeros(40, dtype=torch.int64))
    for unit in (False, True):
        kept = TargetSpace(None, offset, phi, unit=unit, min_norm=0.01).finished(target)
        assert kept is not None
        assert kept.rows.tolist() == [r for r in range(40) if r not in (3, 7)]
        assert torch.equal(kept.weight, target.weight[kept.rows])
        lengths = kept.values.norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones(38) if unit else values[kept.rows].norm(dim=1))
    assert TargetSpace(None, offset, phi, min_norm=1e9).finished(target) is None


def test_a_fresh_head_is_trained_beside_adapters(trained: Path, tmp_path: Path) -> None:
    """2D adaptation with LoRA towards a teacher that the student has no head for."""
    data = entries()
    settings = (
        f"student={trained}", "epochs=2", "batch_size=2", "lora.rank=4", "lora.dropout=0.1", 'lora.modules=["qkv"]',
        "teachers.pe_spatial.space=unit", "threads=1", "data.cover=0.0", "data.views=2", "projector_hidden=24",
        "projector_layout=norm_input",
    )  # fmt: skip
    config = load_config(AdaptConfig, None, settings)
    train(config, TrainData(data, [], standardisers_of(data)), tmp_path, CPU)
    before, after = load_student(trained).state_dict(), load_student(tmp_path).state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed
    assert all(".attn.qkv.weight" in k for k in changed)
    with pytest.raises(ConfigError, match=r"lora.modules names 'qvk'; the encoder's linear layers are .*qkv"):
        recipe = DistillRecipe(
            load_config(AdaptConfig, None, (*settings, 'lora.modules=["qvk"]')),
            TrainData(data, [], standardisers_of(data)), CPU,
        )  # fmt: skip
        recipe.prepare(Processes(0, 1))
