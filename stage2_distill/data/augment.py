"""Augmentations of a Gaussian scene: pure functions of (scene, random generator), vectorised, every attribute kept
consistent.

Two are made for 3DGS (Chorus, arXiv 2512.17817, "rendering-equivalent" and "immature-manifold" perturbations; their
strengths are not in the paper, and the defaults are ours; the released Chorus's are in evaluation/recipes/chorus-3dgs).
The others follow the list and the strengths of SceneSplat's joint
language recipe (configs/concat_dataset/lang-pretrain-concat-...-contrastive.py), with its gaps closed: rotations and
flips move quaternions and normals too, quaternions stay canonical (w >= 0), so the network sees one sign in training
and at test, and colours live in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chorus_common.bounds import bounds
from chorus_common.rotations import middle, rotate, rotation_about
from chorus_common.runtime.config import Config
from chorus_common.scene import GaussianScene, canonical_quats, quats_to_rotations
from stage2_distill.data.elastic import elastic

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


class AugmentConfig(Config):
    """What `augment` does. A probability of 0 switches a step off; `enabled = false` switches all of them off."""

    enabled: bool = Field(default=True, description="false switches every augmentation off")
    dropout_p: float = Field(default=0.2, ge=0, le=1, description="probability of dropping Gaussians")
    dropout_ratio: float = Field(default=0.2, ge=0, lt=1, description="share of Gaussians that goes")
    rotate_z_p: float = Field(
        default=0.5, ge=0, le=1, description="probability of a turn about z by up to +-180 degrees"
    )
    tilt_p: float = Field(default=0.5, ge=0, le=1, description="probability of a turn about x, and of one about y")
    tilt_degrees: float = Field(default=2.8125, ge=0, le=90, description="largest tilt; pi/64")
    scale: tuple[float, float] = Field(default=(0.9, 1.1), description="range of one isotropic factor")
    flip_p: float = Field(default=0.5, ge=0, le=1, description="probability of a flip in x, and of one in y")
    covariance_noise_p: float = Field(
        default=0.5, ge=0, le=1, description="probability of noise on centres along each Gaussian's own extent"
    )
    covariance_noise: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = Field(
        default=(0.0, 0.25),
        description="range of the noise on centres, in standard deviations of each Gaussian; one strength per scene",
    )
    inflate_p: float = Field(default=0.2, ge=0, le=1, description="probability of inflated scales")
    inflate: float = Field(default=1.5, ge=1, description="largest factor on scales")
    inflate_each: Literal["axis", "gaussian", "scene"] = Field(
        default="axis",
        description="what has a factor of its own: every axis of every Gaussian (up to a largest one drawn per scene), "
        "every Gaussian, or the scene",
    )
    jitter_m: float = Field(
        default=0.005, ge=0, description="deviation of isotropic noise on centres, metres, clipped at twice that"
    )
    elastic_p: float = Field(default=0.5, ge=0, le=1, description="probability of elastic distortion")
    elastic: tuple[tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(ge=0)]], ...] = Field(
        default=((0.2, 0.4), (0.8, 1.6)), description="(cell, magnitude) of each elastic distortion, metres"
    )
    contrast_p: float = Field(default=0.2, ge=0, le=1, description="probability of stretched contrast")
    color_shift_p: float = Field(default=0.95, ge=0, le=1, description="probability of one shift of all colours")
    color_shift: float = Field(default=0.05, ge=0, le=1, description="largest shift per channel, in [0, 1] units")
    color_jitter_p: float = Field(default=0.95, ge=0, le=1, description="probability of noise on each colour")
    color_jitter: float = Field(
        default=0.05, ge=0, le=1, description="standard deviation per Gaussian and channel, in [0, 1] units"
    )


@dataclass(frozen=True, eq=False)
class Augmented:
    """An augmented scene of M Gaussians, and `kept` [M]: the rows of the scene before that they were."""

    scene: GaussianScene
    kept: I64


def augment(scene: GaussianScene, config: AugmentConfig, rng: np.random.Generator) -> Augmented:
    """Every augmentation of `config`, in the order of the recipe. Dropout may take rows away."""
    kept = np.arange(len(scene), dtype=np.int64)
    if not config.enabled or len(scene) == 0:
        return Augmented(scene, kept)
    if rng.random() < config.dropout_p:
        kept = dropped_out(len(scene), rng, config.dropout_ratio)
        scene = scene.select(kept)
    center = middle(scene)
    turns = [
        ("z", config.rotate_z_p, 180.0),
        ("x", config.tilt_p, config.tilt_degrees),
        ("y", config.tilt_p, config.tilt_degrees),
    ]
    rotation = np.eye(3)
    for axis, probability, degrees in turns:
        if rng.random() < probability:
            rotation = rotation_about(axis, np.radians(rng.uniform(-degrees, degrees))) @ rotation
    if not np.array_equal(rotation, np.eye(3)):
        scene = rotate(scene, rotation, center)
    scene = rescale(scene, rng.uniform(*config.scale))
    for axis_index in (0, 1):
        if rng.random() < config.flip_p:
            scene = flip(scene, axis_index)
    if rng.random() < config.covariance_noise_p:
        scene = covariance_noise(scene, rng, rng.uniform(*config.covariance_noise))
    if rng.random() < config.inflate_p:
        scene = inflate_scales(scene, rng, config.inflate, config.inflate_each)
    if config.jitter_m > 0:
        scene = jitter(scene, rng, config.jitter_m)
    if rng.random() < config.elastic_p:
        for cell, magnitude in config.elastic:
            scene = elastic(scene, rng, cell, magnitude)
    if rng.random() < config.contrast_p:
        scene = auto_contrast(scene, rng.random())
    if rng.random() < config.color_shift_p:
        scene = shift_colors(scene, rng, config.color_shift)
    if rng.random() < config.color_jitter_p:
        scene = jitter_colors(scene, rng, config.color_jitter)
    return Augmented(scene, kept)


# -------------------------------------------------------------------------------------------------------- made for 3DGS


def covariance_noise(scene: GaussianScene, rng: np.random.Generator, strength: float) -> GaussianScene:
    """Rendering-equivalent perturbation: centres move by `strength` standard deviations of their own Gaussian.

    x_i += strength * R_i diag(s_i) eps with eps ~ N(0, I): the displacement has covariance strength^2 Sigma_i, so a
    flat Gaussian slides within its disc and the picture hardly changes.
    """
    noise = rng.standard_normal((len(scene), 3), dtype=np.float32) * scene.scales * np.float32(strength)
    rotations = quats_to_rotations(scene.quats)
    return replace(scene, means=scene.means + np.einsum("nij,nj->ni", rotations, noise))


def inflate_scales(
    scene: GaussianScene, rng: np.random.Generator, largest: float, each: Literal["axis", "gaussian", "scene"] = "axis"
) -> GaussianScene:
    """Immature-manifold perturbation: scales grow as they are early in 3DGS optimisation, before densification has
    split Gaussians. Nothing shrinks and nothing grows by more than `largest`.

    "axis": one strength a ~ U(0, log largest) per scene, then every axis of every Gaussian grows by exp(a u) with
    u ~ U(0, 1).
    "gaussian", "scene": factors drawn from U(1, largest), one per Gaussian or one in all; shapes stay.
    """
    if each == "axis":
        strength = np.float32(rng.uniform(0, np.log(largest)))
        factor = np.exp(strength * rng.random((len(scene), 3), dtype=np.float32))
    else:
        factor = rng.uniform(1, largest, (len(scene) if each == "gaussian" else 1, 1)).astype(np.float32)
    return replace(scene, scales=scene.scales * factor)


# ------------------------------------------------------------------------------------------------------------- geometry


def rescale(scene: GaussianScene, factor: float) -> GaussianScene:
    """The scene `factor` times as large: centres and scales."""
    f = np.float32(factor)
    return replace(scene, means=scene.means * f, scales=scene.scales * f)


def flip(scene: GaussianScene, axis: int) -> GaussianScene:
    """Mirror the scene in the plane through the origin orthogonal to `axis` (0, 1, 2).

    A Gaussian's rotation R becomes F R F with F the reflection (SceneSplat transform.py:682-727): its covariance
    becomes F Sigma F, and in quaternion form the two other imaginary parts change sign.
    """
    sign = np.ones(3, dtype=np.float32)
    sign[axis] = -1
    quat_sign = np.concatenate([np.ones(1, dtype=np.float32), -sign])
    normals = None if scene.normals is None else scene.normals * sign
    return replace(scene, means=scene.means * sign, quats=canonical_quats(scene.quats * quat_sign), normals=normals)


def jitter(scene: GaussianScene, rng: np.random.Generator, sigma: float) -> GaussianScene:
    """Isotropic noise on centres, `sigma` metres, clipped at two standard deviations."""
    noise = np.clip(rng.standard_normal((len(scene), 3), dtype=np.float32), -2, 2) * np.float32(sigma)
    return replace(scene, means=scene.means + noise)


def dropped_out(n: int, rng: np.random.Generator, ratio: float) -> I64:
    """Rows of `n` Gaussians that dropout keeps: int((1 - ratio) n) of them (at least one), drawn without replacement,
    ascending.
    """
    keep = max(1, int((1 - ratio) * n))
    return np.sort(rng.permutation(n)[:keep])


# --------------------------------------------------------------------------------------------------------------- colour


def auto_contrast(scene: GaussianScene, blend: float) -> GaussianScene:
    """Stretch every colour channel to [0, 1] and mix it with the original: (1 - blend) c + blend stretched."""
    low, high = bounds(scene.colors)
    span = np.where(high > low, high - low, 1)
    stretched: F32 = np.where(high > low, (scene.colors - low) / span, scene.colors).astype(np.float32)
    return replace(scene, colors=scene.colors + np.float32(blend) * (stretched - scene.colors))


def shift_colors(scene: GaussianScene, rng: np.random.Generator, largest: float) -> GaussianScene:
    """One shift per channel for the whole scene, uniform in +-largest, clipped to [0, 1]."""
    shift = rng.uniform(-largest, largest, 3).astype(np.float32)
    return replace(scene, colors=np.clip(scene.colors + shift, 0, 1))


def jitter_colors(scene: GaussianScene, rng: np.random.Generator, sigma: float) -> GaussianScene:
    """Independent noise per Gaussian and channel, clipped to [0, 1]."""
    noise = rng.standard_normal((len(scene), 3), dtype=np.float32) * np.float32(sigma)
    return replace(scene, colors=np.clip(scene.colors + noise, 0, 1))
