"""A tiny student with random weights for the toy rooms' teacher."""

from __future__ import annotations

import zlib

import numpy as np
import torch

from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.scene import GaussianScene
from stage2_distill.encode import VoxelFeatures
from stage2_distill.encoder import build_encoder
from stage2_distill.encoder.latent import DenseLatent
from stage2_distill.student import Student, StudentTeacher
from stage2_distill.tta import TtaFeatures, rotated_scenes
from tests.evaluation.rooms import TEACHER, TEXT_SPEC, WordVectors

TINY = {
    "stride": (2,),
    "enc_depths": (1, 1),
    "enc_channels": (8, 16),
    "enc_num_head": (1, 2),
    "enc_patch_size": (64, 64),
    "enc_conv": (True, True),
    "enc_attn": (False, True),
    "dec_depths": (1,),
    "dec_channels": (16,),
    "dec_num_head": (2,),
    "dec_patch_size": (64,),
    "dec_conv": (True,),
    "dec_attn": (False,),
}


def make_student(standardiser: PhiSStandardiser) -> Student:
    torch.manual_seed(0)
    teacher = StudentTeacher(spec=TEXT_SPEC, fingerprint="toy", channels=WordVectors.channels, hidden=16)
    student = Student(build_encoder("chorus-lite", **TINY), {TEACHER: teacher})
    student.set_standardiser(TEACHER, standardiser)
    return student.eval()


def fake_tta(encoder: torch.nn.Module, scene: GaussianScene, tta_rotations: int = 1) -> TtaFeatures:
    """`fake_latent` in place of the point transformer at every angle, each Gaussian a voxel of its own."""
    return TtaFeatures(
        tuple(
            VoxelFeatures(DenseLatent(torch.from_numpy(fake_latent(encoder, rotated))), torch.arange(len(scene)))
            for rotated in rotated_scenes(scene, tta_rotations)
        )
    )


def fake_latent(encoder: torch.nn.Module, scene: GaussianScene) -> np.ndarray:
    """A stand-in for the point transformer: random features of place and colour, a function of the encoder's
    weights.
    """
    weights = next(encoder.parameters()).detach().numpy()
    rng = np.random.default_rng(zlib.crc32(weights.tobytes()))
    width = encoder.out_channels  # type: ignore[attr-defined]
    inputs = np.concatenate([scene.means, scene.colors], axis=1)
    return np.tanh(inputs @ rng.standard_normal((6, width))).astype(np.float32)
