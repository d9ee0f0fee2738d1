"""Projectors, and the student that holds them: forward, inverse standardisation, folder round trip, damaged folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from chorus_common.features.standardise import Moments, PhiSStandardiser, phi_s
from chorus_common.runtime.errors import ConfigError, WeightsError
from stage2_distill.encoder import PointBatch, build_encoder
from stage2_distill.projectors import Projector, make_projector
from stage2_distill.student import Student, StudentTeacher, load_student, save_student


def make_batch(n: int = 60) -> PointBatch:
    generator = torch.Generator().manual_seed(0)
    grid = torch.unique(torch.randint(0, 12, (n, 3), generator=generator), dim=0)
    feat = torch.randn(len(grid), 11, generator=generator)
    return PointBatch(grid * 0.1, grid, feat, torch.tensor([len(grid)]))


def make_standardiser(channels: int, seed: int) -> PhiSStandardiser:
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((500, channels)) * np.linspace(0.1, 5, channels) + rng.standard_normal(channels)
    return phi_s(Moments.of(tokens), spec="open_clip:ViT-B-16:made-up", teacher_fingerprint="abc")


def make_student(seed: int = 0) -> Student:
    torch.manual_seed(seed)
    encoder = build_encoder("chorus-lite", enc_channels=(8, 16), enc_depths=(1, 1))
    teachers = {
        "open-clip.v1": StudentTeacher(spec="s1", fingerprint="f1", channels=12, hidden=20, text_aligned=True),
        "dense": StudentTeacher(spec="s2", fingerprint="f2", channels=6, hidden=20),
    }
    student = Student(encoder, teachers)
    student.set_standardiser("open-clip.v1", make_standardiser(12, 1))
    student.set_standardiser("dense", make_standardiser(6, 2))
    return student.eval()


def test_projector_is_linear_norm_gelu_linear() -> None:
    torch.manual_seed(0)
    projector = Projector(5, 7, 3)
    x = torch.randn(4, 5)
    first, norm, _, last = projector
    hidden = x @ first.weight.T + first.bias
    hidden = (hidden - hidden.mean(1, keepdim=True)) / (hidden.var(1, keepdim=True, unbiased=False) + norm.eps).sqrt()
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(projector(x), hidden @ last.weight.T + last.bias, atol=1e-6, rtol=1e-5)


def test_without_a_projector_the_latent_is_the_prediction(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='"identity" needs a latent as wide as the teacher, not 5 and 7 channels'):
        make_projector("identity", 5, 3, 7)
    encoder = build_encoder("chorus-lite", enc_channels=(8, 16), enc_depths=(1, 1))
    teacher = StudentTeacher(
        spec="s", fingerprint="f", channels=encoder.out_channels, hidden=1, projector="identity", space="unit"
    )
    student, batch = Student(encoder, {"lang": teacher}).eval(), make_batch()
    with torch.no_grad():
        latent = encoder(batch)
        assert torch.equal(student.project("lang", latent), latent)
        torch.testing.assert_close(student.matched("lang", latent).norm(dim=1), torch.ones(len(latent)))
    save_student(student, tmp_path)
    back = load_student(tmp_path)
    assert back.config == student.config
    assert back.state_dict().keys() == student.state_dict().keys()


@torch.no_grad()
def test_student_gives_every_teachers_features() -> None:
    student, batch = make_student(), make_batch()
    standardised = student(batch)
    assert {k: tuple(v.shape) for k, v in standardised.items()} == {
        "dense": (len(batch), 6),
        "open-clip.v1": (len(batch), 12),
    }
    direction = standardised["dense"].numpy()
    typical = direction / np.linalg.norm(direction, axis=1, keepdims=True) * 6**0.5
    expected = make_standardiser(6, 2).inverse(typical)
    np.testing.assert_allclose(student.teacher_features("dense", batch), expected, atol=1e-4)


@torch.no_grad()
def test_doubt_does_not_look_like_the_teachers_mean() -> None:
    """Features that point the right way but are shrunk come back as the teacher's own."""
    standardiser, student = make_standardiser(6, 2), make_student()
    rows = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    rows *= 6**0.5 / np.linalg.norm(rows, axis=1, keepdims=True)
    own = standardiser.inverse(rows)
    for doubt in (1.0, 0.3, 0.01):
        back = student.unstandardise("dense", torch.from_numpy(rows * doubt)).numpy()
        np.testing.assert_allclose(back, own, atol=1e-4)


def test_standardiser_goes_back_and_forth() -> None:
    standardiser = make_standardiser(12, 1)
    tokens = np.random.default_rng(3).standard_normal((20, 12)).astype(np.float32)
    back = make_student().standardiser("open-clip.v1").inverse(torch.from_numpy(standardiser.forward(tokens)))
    np.testing.assert_allclose(back, tokens, atol=1e-4)


def test_unknown_teacher_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no teacher 'sam'; it has dense, open-clip.v1"):
        make_student().standardiser("sam")


@torch.no_grad()
def test_saved_student_is_the_same_student(tmp_path: Path) -> None:
    student, batch = make_student(), make_batch()
    save_student(student, tmp_path / "one")
    loaded = load_student(tmp_path / "one")
    assert loaded.config == student.config
    assert not loaded.training
    for name, value in student(batch).items():
        assert torch.equal(value, loaded(batch)[name])
        assert torch.equal(student.teacher_features(name, batch), loaded.teacher_features(name, batch))
    save_student(loaded, tmp_path / "two")
    for file in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    card = (tmp_path / "one" / "README.md").read_text()
    assert "open-clip.v1" in card
    assert "0.02 m" in card


@torch.no_grad()
def test_averaged_weights_can_be_saved_instead(tmp_path: Path) -> None:
    student = make_student()
    state = {k: v + 1 if k.startswith("projectors.") else v for k, v in student.state_dict().items()}
    save_student(student, tmp_path, state)
    for key, value in load_student(tmp_path).state_dict().items():
        assert torch.equal(value, state[key])


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing: no such file or folder"):
        load_student(tmp_path / "nothing")
    save_student(make_student(), tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(WeightsError, match=r"model.safetensors: not a valid safetensors file"):
        load_student(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights.replace(b'"dtype":"F32"', b'"dtype":"F4" '))
    with pytest.raises(WeightsError, match=r"model.safetensors: not a valid safetensors file"):
        load_student(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model.safetensors: no such file"):
        load_student(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights)
    config = json.loads((tmp_path / "config.json").read_text())
    config["teachers"]["dense"]["channels"] = 7
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"weights do not fit config.json"):
        load_student(tmp_path)
    (tmp_path / "config.json").write_text('{"format": "other"}')
    with pytest.raises(WeightsError, match=r"not a student's config"):
        load_student(tmp_path)
