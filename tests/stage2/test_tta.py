"""Test-time rotations against the plain loop over angles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chorus_common.rotations import rotate, rotation_about
from stage2_distill.encode import encode_scene
from stage2_distill.encoder import build_encoder
from stage2_distill.student import Student, StudentTeacher
from stage2_distill.tta import encode_tta, rotated_scenes
from tests.stage2.test_inputs import scene


@pytest.fixture
def student() -> Student:
    torch.manual_seed(0)
    teacher = StudentTeacher(spec="toy", fingerprint="toy", channels=12, hidden=16)
    student = Student(build_encoder("chorus-lite", enc_channels=(24, 36, 48)), {"toy": teacher}).eval()
    student.standardiser("toy").mean.copy_(torch.randn(12))
    student.standardiser("toy").rotation.copy_(torch.linalg.qr(torch.randn(12, 12)).Q)
    student.standardiser("toy").phi.fill_(0.7)
    return student


def test_one_turn_is_the_scene_as_it_is(student: Student) -> None:
    s = scene(side=0.2)
    assert [rotated is s for rotated in rotated_scenes(s, 1)] == [True]
    latent = encode_scene(student.encoder, s)
    rotated = encode_tta(student.encoder, s)
    assert len(rotated) == len(s)
    assert torch.equal(rotated.mean(), latent)
    with torch.no_grad():
        expected = student.to_teacher_space("toy", latent)
    torch.testing.assert_close(rotated.in_teacher_space(student, "toy"), expected, rtol=1e-5, atol=1e-5)


def test_rotations_are_the_mean_over_angles(student: Student) -> None:
    s = scene(side=0.2)
    centre = (s.means.min(0).astype(np.float64) + s.means.max(0)) / 2
    latents, directions = [], []
    for degrees in (0, 137.50776405, 275.0155281, 52.52329215):
        rotated = rotate(s, rotation_about("z", np.radians(degrees)), centre) if degrees else s
        latents.append(encode_scene(student.encoder, rotated))
        with torch.no_grad():
            standardised = student.project("toy", latents[-1])
        directions.append(standardised / standardised.norm(dim=1, keepdim=True))
    found = encode_tta(student.encoder, s, 4)
    torch.testing.assert_close(found.mean(), torch.stack(latents).mean(0), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(latents[0], latents[1], atol=1e-3), "angles must matter, or this test cannot fail"
    mean = torch.stack(directions).mean(0)
    standardiser = student.standardiser("toy")
    length = 12**0.5
    expected = (
        standardiser.phi * length * (mean / mean.norm(dim=1, keepdim=True)) @ standardiser.rotation + standardiser.mean
    )
    torch.testing.assert_close(found.in_teacher_space(student, "toy"), expected, rtol=1e-4, atol=1e-5)
    parts = [found.in_teacher_space(student, "toy", a, a + 50) for a in range(0, len(s), 50)]
    torch.testing.assert_close(torch.cat(parts), found.in_teacher_space(student, "toy"), rtol=1e-5, atol=1e-5)
