"""Render-and-distill: what is compared, what may change, and that it brings a student closer to another domain."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from chorus_common.cache.names import UNRECORDED
from chorus_common.features.standardise import Moments, phi_s
from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import ConfigError
from stage2_distill.data.augment import AugmentConfig
from stage2_distill.data.dataset import CacheDataset, SceneEntry
from stage2_distill.data.rendered import rendered_targets
from stage2_distill.distill import train
from stage2_distill.encoder import EncoderConfig, build_encoder
from stage2_distill.encoder.config import InputConfig
from stage2_distill.feature_norms import FACTORS
from stage2_distill.lora import LoraLinear, add_lora, merged_tensors
from stage2_distill.losses.prototypes import choose_prototypes, prototypes_of_scenes
from stage2_distill.settings import AdaptConfig, DataSettings, PrototypeSettings, TeacherSettings
from stage2_distill.start import TrainData, target_space
from stage2_distill.student import Student, StudentTeacher, load_student, save_student
from stage2_distill.validation import validate
from tests.stage2.store_fakes import GRID, MemoryStore, make_entries, make_standardisers
from tests.stage2.test_distill import stop_after
from tests.stage2.train_child import run_tiny, tiny_data

CPU = torch.device("cpu")
ENCODER = EncoderConfig(inputs=InputConfig(grid_size=0.1))
TINY_ADAPT = ("epochs=6", "batch_size=2", "checkpoint_every=4", "threads=1", "data.cover=0.0", "data.views=2")


def adapt_config(student: Path, *settings: str) -> AdaptConfig:
    return load_config(AdaptConfig, None, (*TINY_ADAPT, f"student={student}", *settings))


def shifted_data() -> TrainData:
    """The same rooms in other colours, which their teachers look through."""
    entries = []
    for entry in tiny_data().scenes:
        store = entry.store
        assert isinstance(store, MemoryStore)
        dark = replace(store.gaussians, colors=(store.gaussians.colors * 0.4).astype(np.float32))
        there = replace(store, gaussians=dark)
        entries.append(SceneEntry("shifted", entry.scene_id, "shifted-" + entry.fingerprint, there))
    return TrainData(entries, entries[:2], make_standardisers(entries))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("student")
    run_tiny(out, "epochs=12")
    return out


def plain_render(store: MemoryStore, features: np.ndarray, views: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Sum of w f over each cell's hits over their weight, one entry at a time in float64."""
    sums, weight = np.zeros((store.index.n_columns, features.shape[1])), np.zeros(store.index.n_columns)
    for row in range(len(store.index)):
        for k in range(store.index.indptr[row], store.index.indptr[row + 1]):
            column = store.index.columns[k]
            sums[column] += float(store.index.weights[k]) * features[row]
            weight[column] += float(store.index.weights[k])
    keep = np.isin(np.arange(len(weight)) // GRID.cells, views) & (weight > 0)
    return sums[keep] / weight[keep, None], np.flatnonzero(keep)


@pytest.mark.parametrize("views", [None, [1, 3]])
def test_rendered_targets_are_the_teachers_cells_and_what_gaussians_show_there(views: list[int] | None) -> None:
    entries = make_entries(scenes=1, n=150)
    store = entries[0].store
    assert isinstance(store, MemoryStore)
    data = DataSettings(cover=0.0)
    dataset = CacheDataset(
        entries, {"text": 8}, {}, ENCODER, data, AugmentConfig(), seed=0, batch_size=1, objective="rendered"
    )
    rng = np.random.default_rng(0)
    voxel, features = rng.integers(30, size=150), rng.standard_normal((30, 5))
    pixels, targets = rendered_targets(dataset.scenes[0], np.arange(150), voxel, 30, views, 0.0)
    expected, columns = plain_render(store, features[voxel], views or [0, 1, 2, 3])
    np.testing.assert_allclose(pixels @ torch.from_numpy(features), expected, atol=1e-5)
    target = targets["text"]
    np.testing.assert_array_equal(target.values, store.cells["text"].reshape(-1, 8)[columns])
    assert (target.weight > 0).all()
    batch = dataset.batch(0, 0, 1)
    assert batch.pixels is not None
    assert batch.pixels.width == len(batch.points)
    assert int(batch.targets["text"].rows.max()) < len(batch.pixels)


def test_cells_that_a_crop_hardly_covers_are_left_out() -> None:
    dataset = CacheDataset(
        make_entries(scenes=1, n=150), {"text": 8}, {}, ENCODER, DataSettings(), AugmentConfig(), seed=0, batch_size=1
    )
    weights = []
    for cover in (0.0, 0.05):
        _, targets = rendered_targets(dataset.scenes[0], np.arange(150), np.arange(150), 150, None, cover)
        weights.append(targets["text"].weight)
    assert weights[1].min() >= 0.05
    assert len(weights[1]) == int((weights[0] >= 0.05).sum()) < len(weights[0])
    _, nothing = rendered_targets(dataset.scenes[0], np.arange(3), np.arange(3), 3, None, 1.0)
    assert nothing == {}


@pytest.mark.parametrize("settings", [(), ("lora.rank=4", "optim.lr=0.01")])
def test_adaptation_brings_a_student_closer_to_the_new_domain(
    student: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    data = shifted_data()
    config = adapt_config(student, "epochs=12", "optim.lr=0.003", *settings)
    train(config, data, tmp_path, CPU)
    before, after = load_student(student), load_student(tmp_path)
    spaces = {n: target_space(before, n, data.standardisers[n], TeacherSettings()) for n in before.teachers}
    dataset = CacheDataset(
        data.validation, {"text": 8, "dense": 12}, {}, before.encoder.config, config.data, config.augment, seed=0,
        batch_size=1, objective="rendered", spaces=spaces,
    )  # fmt: skip
    found = [validate(s, dataset, dict.fromkeys(s.teachers, TeacherSettings()), CPU) for s in (before, after)]
    for name in before.teachers:
        assert found[1][name]["distillation"] < found[0][name]["distillation"] - 0.005, name
        feature_norm = after.config.teachers[name].feature_norm  # measured on the new domain's pictures
        assert feature_norm in [factor * after.standardiser(name).mean.numel() ** 0.5 for factor in FACTORS]
    if config.lora.rank:
        same = [n for n, v in after.state_dict().items() if torch.equal(v, before.state_dict()[n])]
        changed = set(after.state_dict()) - set(same)
        linear = {f"encoder.{n}.weight" for n, m in before.encoder.named_modules() if isinstance(m, nn.Linear)}
        assert changed
        assert changed <= linear


def test_an_interrupted_adaptation_goes_on_to_the_bit(student: Path, tmp_path: Path) -> None:
    for settings in ((), ("lora.rank=2",)):
        config = adapt_config(student, *settings)
        whole, halves = (tmp_path / f"{len(settings)}{k}" for k in ("whole", "halves"))
        train(config, shifted_data(), whole, CPU)
        stop_after(config, shifted_data(), halves, step=6)
        train(config, shifted_data(), halves, CPU)
        for name in ("state.safetensors", "model.safetensors"):
            assert (whole / name).read_bytes() == (halves / name).read_bytes()


def test_a_lora_layer_starts_as_its_base_and_merges_into_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    plain = copy.deepcopy(model)
    x = torch.randn(5, 6)
    assert add_lora(model, model, rank=2, alpha=4.0) == 2
    torch.testing.assert_close(model(x), plain(x))
    assert sorted(n for n, p in model.named_parameters() if p.requires_grad) == ["0.down", "0.up", "2.down", "2.up"]
    for layer in model:
        if isinstance(layer, LoraLinear):
            nn.init.normal_(layer.up)
    plain.load_state_dict(merged_tensors(model.state_dict(), 2.0))
    torch.testing.assert_close(plain(x), model(x), atol=1e-5, rtol=1e-5)
    assert merged_tensors(plain.state_dict(), 2.0).keys() == plain.state_dict().keys()


def test_targets_of_another_standardiser_are_translated_into_the_students(student: Path) -> None:
    """A store's cells mean the same in the teacher's own space, whichever standardiser they are told in."""
    model = load_student(student)
    rng = np.random.default_rng(0)
    other = phi_s(Moments.of(rng.standard_normal((300, 8)) @ rng.standard_normal((8, 8)) + 3), spec="made-up:text")
    space = target_space(model, "text", other, TeacherSettings())
    assert space.translation is not None
    entries = make_entries(scenes=1, n=150)
    for objective in ("lifted", "rendered"):
        plain, translated = (
            CacheDataset(
                entries, {"text": 8, "dense": 12}, {}, ENCODER, DataSettings(cover=0.0), AugmentConfig(), seed=0,
                batch_size=1, objective=objective, spaces=given,
            ).plain(0).batch.targets
            for given in (None, {"text": space})
        )  # fmt: skip
        meant = other.inverse(plain["text"].values.numpy())
        found = model.standardiser("text").inverse(translated["text"].values).numpy()
        np.testing.assert_allclose(found, meant, atol=0.02 if objective == "lifted" else 1e-4)  # fp16 rows
        assert torch.equal(plain["dense"].values, translated["dense"].values)


def test_prototypes_of_pictures_are_centres_of_cells_that_show_something(student: Path, tmp_path: Path) -> None:
    entries = make_entries(scenes=2, n=150)
    dataset = CacheDataset(
        entries, {"text": 8}, {}, ENCODER, DataSettings(), AugmentConfig(), seed=0, batch_size=1, objective="rendered"
    )
    found = prototypes_of_scenes(dataset.scenes, "text", PrototypeSettings(count=6), 3, "rendered")
    stores = [entry.store for entry in entries]
    seen = [s.cells["text"].reshape(-1, 8)[np.unique(s.index.columns)] for s in stores if isinstance(s, MemoryStore)]
    np.testing.assert_allclose(found, choose_prototypes(np.concatenate(seen), 6, 3), atol=1e-6)
    # and they teach: the term is in the log and falls
    config = adapt_config(student, "epochs=12", "teachers.text.prototypes.weight=1", "teachers.text.prototypes.count=6")
    train(config, shifted_data(), tmp_path, CPU)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    terms = [r["teachers"]["text"]["prototypes"] for r in records if r["kind"] == "step"]
    assert np.mean(terms[-6:]) < np.mean(terms[:6])


def test_a_store_of_the_students_own_standardiser_needs_no_translation(student: Path) -> None:
    model = load_student(student)
    assert all(
        model.translation(name, standardiser) is None for name, standardiser in tiny_data().standardisers.items()
    )


def test_a_student_of_other_teachers_is_refused(student: Path, tmp_path: Path) -> None:
    data = shifted_data()
    for standardisers, settings, message in (
        ({"sound": data.standardisers["text"]}, (), "the student's teachers are dense, text, the scenes' are sound"),
        (data.standardisers, ("teachers.dance.weight=1",), "this student has no teacher 'dance'; it has dense, text"),
        (
            {"text": replace(data.standardisers["text"], teacher_fingerprint="other")}, (),
            "teacher 'text' of the student is not the one of the scenes",
        ),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            train(adapt_config(student, *settings), replace(data, standardisers=standardisers), tmp_path, CPU)
    with pytest.raises(ConfigError, match="lora adapts a trained student"):
        load_config(AdaptConfig, None, ("lora.rank=4",))


def test_a_student_without_standardisers_adapts_too(tmp_path: Path) -> None:
    """The layout of the released Chorus: LayerNorm first, predictions of unit length in the teacher's own space."""
    data = tiny_data()
    torch.manual_seed(0)
    teachers = {
        name: StudentTeacher(
            spec=s.spec, fingerprint=UNRECORDED, channels=s.channels, hidden=32, projector="norm_input", space="unit"
        )
        for name, s in data.standardisers.items()
    }
    small = {"enc_channels": (8, 16), "enc_depths": (1, 1), "inputs": {"grid_size": 0.1}}
    save_student(Student(build_encoder("chorus-lite", **small), teachers), tmp_path / "student")
    config = adapt_config(tmp_path / "student", "epochs=12", "optim.lr=0.003")
    train(config, data, tmp_path / "out", CPU)
    records = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [r["loss"] for r in records if r["kind"] == "step"]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.05
    after = load_student(tmp_path / "out")
    assert {t.space for t in after.config.teachers.values()} == {"unit"}
    assert not any(key.startswith("standardisers.") for key in after.state_dict())
