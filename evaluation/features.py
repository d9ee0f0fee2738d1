"""Where per-Gaussian features come from: the student, the lifted teacher, or files. All in a text-aligned teacher's own
space.

A source opens one scene at a time and hands out features by row ranges, so that a scene with 10^6 Gaussians and 10^3
channels never lies in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from chorus_common.cache import SceneCache
from chorus_common.cache.names import UNRECORDED
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.lifting import LiftingIndex
from chorus_common.runtime.errors import ConfigError, SceneError, WeightsError
from chorus_common.runtime.store_path import StorePath, local_copy
from chorus_common.scene import GaussianScene
from chorus_common.scene_io.npy import open_npy
from chorus_common.text import TextEncoder, load_text_encoder
from evaluation.metrics.semantic import MetricError
from evaluation.scenes import LoadedScene
from stage2_distill.encoder import Encoder
from stage2_distill.encoder.latent import LatentBlock
from stage2_distill.encoder.products import fast_products
from stage2_distill.folded_projector import FoldedProjector
from stage2_distill.inference.outputs import OfBlock, projection
from stage2_distill.preconditions import unmet
from stage2_distill.projectors import NormInputProjector
from stage2_distill.split_projector import SplitProjector, voxels_at_once
from stage2_distill.student import Student
from stage2_distill.tta import TtaFeatures, encode_tta

F32 = NDArray[np.float32]

#: Gaussians per pass.
PASS = 1 << 15
#: Scores [n, K] -> what is made of them, [n, ...].
Answer = Callable[[F32], NDArray[Any]]
#: The head that is no head: the encoder's own output.
LATENT = "encoder"


class SceneFeatures(Protocol):
    """Features of one scene's Gaussians, in the cache's row order."""

    def rows(self, start: int, stop: int) -> F32:
        """[stop - start, C]; a row of zeros = nothing is known about that Gaussian."""
        ...


@runtime_checkable
class AskedFeatures(Protocol):
    """Features that answer texts without being kept: what is asked is worked out voxel by voxel."""

    def ask(self, text: F32, answer: Answer, *, cosines: bool) -> NDArray[Any] | None:
        """What `answer` makes of the scores of all Gaussians with text [K, C], [N, ...]; None = not of these.

        answer: scores [n, K] of some voxels -> [n, ...]. cosines: scores are cosines; else they are in proportion to
        them in every row, which costs less.
        """
        ...


@runtime_checkable
class HeadedFeatures(Protocol):
    """Features of a network that has other heads, too; all are made of one encoding of the scene."""

    def head(self, name: str) -> SceneFeatures:
        """What head `name` says of the scene's Gaussians."""
        ...


class FeatureSource(Protocol):
    """Something that has features for scenes."""

    def open(self, scene: LoadedScene) -> SceneFeatures:
        """Features of `scene`, one row per Gaussian in its order."""
        ...


@dataclass(frozen=True)
class StudentFeatures:
    """What the student predicts for teacher `teacher`: projector, then inverse PHI-S. Every Gaussian has a feature.

    tta_rotations: angles that the scene is encoded at (`stage2_distill.tta`).
    """

    student: Student
    teacher: str
    tta_rotations: int = 1

    @property
    def other_heads(self) -> tuple[str, ...]:
        """What else the student says of a scene: for its other teachers, and before any projector."""
        return (*(name for name in self.student.teachers if name != self.teacher), LATENT)

    def open(self, scene: LoadedScene) -> SceneFeatures:
        _say_unmet(self.student.encoder, scene)
        rotated = encode_tta(self.student.encoder, scene.gaussians, self.tta_rotations)
        return StudentScene(self.student, self.teacher, rotated)


class StudentScene:
    """A student's predictions for one scene."""

    def __init__(self, student: Student, teacher: str, rotated: TtaFeatures) -> None:
        self._student, self._teacher, self._rotated = student, teacher, rotated
        self._device = next(student.parameters()).device
        self._lengths: Tensor | None = None

    def rows(self, start: int, stop: int) -> F32:
        return self._rotated.in_teacher_space(self._student, self._teacher, start, stop).numpy()

    def head(self, name: str) -> SceneFeatures:
        """See `HeadedFeatures`; `LATENT` = the encoder's own output."""
        return _Latent(self._rotated) if name == LATENT else StudentScene(self._student, name, self._rotated)

    @torch.inference_mode()
    def ask(self, text: F32, answer: Answer, *, cosines: bool) -> NDArray[Any] | None:
        """See `AskedFeatures`: at one angle."""
        if len(self._rotated.angles) != 1:
            return None
        (angle,) = self._rotated.angles
        lengths = self._lengths
        if lengths is None:
            lengths = torch.empty(len(angle.latent), device=self._device)
        score = self._scores(torch.from_numpy(text).to(self._device), lengths, cosines)
        found: NDArray[Any] | None = None
        with fast_products(self._device):
            for block in angle.latent.blocks(voxels_at_once(self._device)):
                part = answer(score(block).float().cpu().numpy())
                if found is None:
                    found = np.empty((len(angle.latent), *part.shape[1:]), part.dtype)
                found[block.voxels.cpu().numpy()] = part
        assert found is not None, "a scene has at least one voxel"
        if cosines:
            self._lengths = lengths
        return found[angle.voxel.numpy()]

    def _scores(self, text: Tensor, lengths: Tensor, cosines: bool) -> OfBlock:
        """Blocks of the latent -> [n, K].

        Where the projection is the teacher's own space, its last layer is folded into the texts. Cosines need its
        length as well: the first question fills `lengths` [M] with it, further ones read them.
        """
        projector, teacher = self._student.projector(self._teacher), self._student.config.teachers[self._teacher]
        if teacher.space == "standardised" or not isinstance(projector, NormInputProjector):
            project = projection(self._student, self._teacher)

            def plain(block: LatentBlock) -> Tensor:
                features = self._student.unstandardise(self._teacher, project(block))
                return F.normalize(features, dim=-1) @ text.T

            return plain
        split = SplitProjector(projector)
        folded = FoldedProjector(split, text)
        if not cosines:
            return folded
        if self._lengths is not None:
            return lambda block: folded(block) / lengths[block.voxels][:, None]

        def first(block: LatentBlock) -> Tensor:
            features = split(block)
            length = lengths[block.voxels] = features.norm(dim=-1).clamp(min=1e-12)
            return (features @ text.T) / length[:, None]

        return first


@dataclass(frozen=True)
class _Latent:
    rotated: TtaFeatures

    def rows(self, start: int, stop: int) -> F32:
        return self.rotated.mean(start, stop).numpy()


@dataclass(frozen=True)
class EncoderFeatures:
    """The encoder's own output: of a checkpoint that was trained into a text encoder's space without a projector."""

    encoder: Encoder
    tta_rotations: int = 1

    def open(self, scene: LoadedScene) -> SceneFeatures:
        _say_unmet(self.encoder, scene)
        return ArrayFeatures(encode_latent(self.encoder, scene.gaussians, self.tta_rotations))


@dataclass(frozen=True)
class ArrayFeatures:
    """Features that lie in memory, [N, C] f32."""

    values: F32

    def rows(self, start: int, stop: int) -> F32:
        return self.values[start:stop]


@dataclass(frozen=True)
class LiftedTeacher:
    """The teacher's own features, lifted from the cache: W F2 / W 1, inverse PHI-S. Gaussians that no view sees are
    rows of zeros.

    PHI-S is affine and lifting is a weighted mean, so they commute.
    """

    teacher: str
    standardiser: PhiSStandardiser

    def open(self, scene: LoadedScene) -> SceneFeatures:
        cache, who = scene.cached(), scene.name
        if self.teacher not in cache.dense_teachers:
            raise ConfigError(
                f"{who}: the cache has no teacher '{self.teacher}'; it has {', '.join(cache.dense_teachers)}"
            )
        stored = cache.attributes.dense_teachers[self.teacher].standardiser
        if stored != self.standardiser.fingerprint:
            raise ConfigError(
                f"{who}: teacher '{self.teacher}' was standardised in another way; calibrate and run stage 1 again"
            )
        if cache.dense_teachers[self.teacher].lifted_rows is not None:
            return _ImportedScene(self.standardiser, cache, self.teacher)
        return _LiftedScene(self.standardiser, cache.lifting(), cache.features(self.teacher))


@dataclass(frozen=True)
class _ImportedScene:
    """Features that came lifted; rows without one are zeros."""

    standardiser: PhiSStandardiser
    cache: SceneCache
    teacher: str

    def rows(self, start: int, stop: int) -> F32:
        values, known = self.cache.lifted_features(self.teacher, slice(start, stop))
        lifted = np.zeros((len(values), self.standardiser.channels), dtype=np.float32)
        lifted[known] = self.standardiser.inverse(values[known])
        return lifted


class _LiftedScene:
    def __init__(self, standardiser: PhiSStandardiser, index: LiftingIndex, features: F32) -> None:
        self._standardiser, self._index = standardiser, index
        self._cells = features.reshape(-1, features.shape[-1])  # [V * cells, C]

    def rows(self, start: int, stop: int) -> F32:
        sums, weight = self._index.lift(self._cells, rows=slice(start, stop))
        known = weight > 0
        lifted = np.zeros((len(sums), self._standardiser.channels), dtype=np.float32)
        lifted[known] = self._standardiser.inverse(sums[known] / weight[known, None])
        return lifted


@dataclass(frozen=True)
class FeatureFiles:
    """One `<scene_id>.npy` [N, C] per scene, rows in the order of the scene's source file (or
    `<dataset>/<scene_id>.npy`); of a perturbed scene in the folder of that variant. channels: C, None = any.
    """

    folder: StorePath
    channels: int | None

    def open(self, scene: LoadedScene) -> SceneFeatures:
        dataset, scene_id, who = scene.where.dataset, scene.where.scene_id, scene.name
        folder = self.folder / scene.variant if scene.variant else self.folder
        paths = [folder / dataset / f"{scene_id}.npy", folder / f"{scene_id}.npy"]
        path = next((p for p in paths if p.is_file()), None)
        if path is None:
            raise ConfigError(f"{who}: neither {paths[0]} nor {paths[1]} exists")
        try:
            with local_copy(path) as here:  # a copy's bytes stay mapped after its name is gone
                values = open_npy(here)
        except OSError as error:
            raise MetricError(f"{path}: not a readable .npy file ({error})") from None
        except SceneError as error:
            raise MetricError(str(error).replace(str(here), str(path))) from None
        channels = self.channels or "C"
        if values.ndim != 2 or (self.channels or values.shape[1]) != values.shape[1] or values.dtype.kind != "f":
            raise MetricError(f"{path}: holds {values.dtype} {list(values.shape)}, expected floats [N, {channels}]")
        # A scene may have been pruned since (source_ids then has gaps), but a file shorter or longer than an unpruned
        # scene is another's.
        source = scene.gaussians.source_ids
        expected = scene.gaussians.source_rows
        if len(values) != expected:
            raise MetricError(f"{path}: has {len(values)} rows, the scene {who} has {expected} Gaussians")
        return _FileScene(values, source, path)


@dataclass(frozen=True)
class _FileScene:
    values: NDArray[np.floating]
    source: NDArray[np.int64]
    path: StorePath

    def rows(self, start: int, stop: int) -> F32:
        part = np.asarray(self.values[self.source[start:stop]], dtype=np.float32)
        if not np.isfinite(part).all():
            raise MetricError(f"{self.path}: holds values that are not finite")
        return part


def _say_unmet(encoder: Encoder, scene: LoadedScene) -> None:
    for finding in unmet(encoder.config, scene.gaussians):
        click.echo(f"{scene.name}: {finding.line()}", err=True)


def encode_latent(encoder: Encoder, scene: GaussianScene, tta_rotations: int = 1) -> F32:
    """The encoder's output [N, D] for every Gaussian, in eval mode, as numpy; the mean over `tta_rotations` angles."""
    return encode_tta(encoder, scene, tta_rotations).mean().numpy()


def check_pair(name: str, fingerprint: str, encoder: TextEncoder) -> None:
    """Raise ConfigError where features of teacher `name` were made by another training than the text encoder's.

    fingerprint: `UNRECORDED` (of the released Chorus) = the teacher's spec is taken at its word.
    """
    if fingerprint != UNRECORDED and not fingerprint.startswith(encoder.pair):
        raise ConfigError(
            f"teacher '{name}': the features come from other weights ({fingerprint}) than the text encoder "
            f"({encoder.pair}); run stage 1 again, or use the release that made them"
        )


def text_aligned_teacher(
    specs: dict[str, str], wanted: str | None, embeddings: TextEncoder | None = None
) -> tuple[str, TextEncoder]:
    """Name and text encoder of the teacher to ask: `wanted`, or the first by name that has a text side.

    specs: teacher name -> spec. embeddings: in place of the teacher's own text side. Raises ConfigError where there is
    none, or `wanted` has no text side.
    """
    if wanted is not None and wanted not in specs:
        raise ConfigError(f"no teacher '{wanted}'; known: {', '.join(specs) or 'none'}")
    if embeddings is not None and (wanted is not None or specs):
        return wanted if wanted is not None else min(specs), embeddings
    problems = []
    for name in [wanted] if wanted is not None else sorted(specs):
        try:
            return name, load_text_encoder(specs[name])
        except ConfigError as error:
            problems.append(str(error))
        except WeightsError as error:
            raise WeightsError(f"{error}; or name a copy with --text, or vectors with --text-embeddings") from None
    reason = problems[0] if problems else "zero-shot needs one"
    raise ConfigError(f"no text-aligned teacher among {', '.join(specs) or 'none'}: {reason}")
