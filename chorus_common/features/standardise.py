"""PHI-S: bring every teacher's features to unit variance without changing how channels relate to each other.

For teacher features y with mean mu and covariance U diag(lambda) U^T, and H a Hadamard rotation:

    forward   y' = (1 / phi) H U^T (y - mu),   phi = sqrt(mean(lambda))
    inverse   y  = phi U H^T y' + mu

Every channel of y' has mean 0 and variance exactly 1 (H spreads each eigenvalue equally), and because the transform is
a rotation times one number, a unit of squared error in y' is phi^2 of squared error in y in every direction. Source:
Ranzinger et al. 2024, "PHI-S: Distribution Balancing for Label-Free Multi-Teacher Distillation", eqs. 13-17; RADIO
examples/common/phi_s.py. Statistics and matrices are fp64, because a covariance in fp32 makes `eigh` unstable; features
are transformed in fp32.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from chorus_common.features.hadamard import Rotation, hadamard
from chorus_common.runtime.atomic import write_bytes_atomically
from chorus_common.runtime.errors import CacheError
from chorus_common.runtime.store_path import StorePath, local_copy, parse_store_path

__all__ = ["Moments", "PhiSStandardiser", "Rotation", "Translation", "hadamard", "phi_s"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_FORMAT = "chorus-standardiser-1"
_TENSORS = ("mean", "rotation", "phi", "eigenvalues")


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean [C] and scatter [C, C] (sum of outer products of deviations) of a stream of tokens, in fp64.

    Merged by Chan, Golub & LeVeque 1979: associative up to rounding, so whoever wants the same bytes merges in the same
    order.
    """

    count: int
    mean: F64
    scatter: F64

    @staticmethod
    def empty(channels: int) -> Moments:
        return Moments(0, np.zeros(channels), np.zeros((channels, channels)))

    @staticmethod
    def of(tokens: NDArray[np.floating]) -> Moments:
        """Moments of tokens [..., C]. Raises CacheError for values that are not finite."""
        x = np.asarray(tokens, dtype=np.float64).reshape(-1, np.shape(tokens)[-1])
        if len(x) == 0:
            return Moments.empty(x.shape[1])
        if not np.isfinite(x).all():
            raise CacheError("teacher features are not finite; check the teacher's weights and its input")
        mean = x.mean(0)
        deviations = x - mean
        return Moments(len(x), mean, deviations.T @ deviations)

    def merge(self, other: Moments) -> Moments:
        """Moments of both streams together."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"moments of {len(self.mean)} and {len(other.mean)} channels cannot be merged")
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        scatter = self.scatter + other.scatter + np.outer(delta, delta) * (self.count * other.count / count)
        return Moments(count, mean, scatter)

    def update(self, tokens: NDArray[np.floating]) -> Moments:
        """These moments with the tokens [..., C] added."""
        return self.merge(Moments.of(tokens))

    @property
    def covariance(self) -> F64:
        """[C, C], divided by the count."""
        return self.scatter / max(self.count, 1)


@dataclass(frozen=True, eq=False)
class Translation:
    """values @ linear + shift: standardised features [..., C] of one standardiser in another one's space."""

    linear: F32
    shift: F32

    def __call__(self, values: NDArray[np.floating]) -> F32:
        return np.asarray(values, dtype=np.float32) @ self.linear + self.shift


@dataclass(frozen=True, eq=False)
class PhiSStandardiser:
    """The standardisation of one teacher.

    Attributes:
        mean        [C] f64.
        rotation    [C, C] f64 orthogonal, H U^T: rows are the standardised channels.
        phi         the one scale, in the teacher's own unit.
        eigenvalues [C] f64, of the covariance, descending.
        spec, teacher_fingerprint: which teacher, with which weights.
        construction: how H was made.
    """

    mean: F64
    rotation: F64
    phi: float
    eigenvalues: F64
    spec: str = ""
    teacher_fingerprint: str = ""
    construction: str = ""

    @property
    def channels(self) -> int:
        return len(self.mean)

    def forward(self, features: NDArray[np.floating]) -> F32:
        """Standardised features [..., C] f32 of teacher features [..., C]."""
        centred = np.asarray(features, dtype=np.float32) - self.mean.astype(np.float32)
        return centred @ (self.rotation / self.phi).T.astype(np.float32)

    def inverse(self, standardised: NDArray[np.floating]) -> F32:
        """Teacher features [..., C] f32 of standardised features [..., C]."""
        return np.asarray(standardised, dtype=np.float32) @ (self.rotation * self.phi).astype(
            np.float32
        ) + self.mean.astype(np.float32)

    def translation(self, mean: NDArray[np.floating], rotation: NDArray[np.floating], phi: float) -> Translation | None:
        """From this standardiser's standardised space to that of another standardiser (`mean`, `rotation`, `phi`) of
        the same teacher; None where they are the same to fp32.
        """
        pairs = ((self.mean, mean), (self.rotation, rotation), (np.array(self.phi), np.array(phi)))
        if all(np.array_equal(mine.astype(np.float32), theirs.astype(np.float32)) for mine, theirs in pairs):
            return None
        there = np.asarray(rotation, dtype=np.float64)
        linear = (self.phi / phi) * self.rotation @ there.T
        shift = (self.mean - np.asarray(mean, dtype=np.float64)) @ there.T / phi
        return Translation(linear.astype(np.float32), shift.astype(np.float32))

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of everything that is saved."""
        digest = hashlib.sha256(json.dumps([_FORMAT, self.spec, self.teacher_fingerprint, self.construction]).encode())
        for array in (self.mean, self.rotation, np.float64(self.phi), self.eigenvalues):
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return digest.hexdigest()

    def save(self, path: str | StorePath) -> None:
        """Write a safetensors file, atomically."""
        write_bytes_atomically(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """A safetensors file; the same standardiser gives the same bytes."""
        tensors = {
            "mean": np.ascontiguousarray(self.mean),
            "rotation": np.ascontiguousarray(self.rotation),
            "phi": np.array([self.phi], dtype=np.float64),
            "eigenvalues": np.ascontiguousarray(self.eigenvalues),
        }
        header = {"spec": self.spec, "teacher_fingerprint": self.teacher_fingerprint, "construction": self.construction}
        # one metadata entry: safetensors orders several of them by a hash that changes from run to run
        metadata = {
            "chorus": json.dumps({"format": _FORMAT, "fingerprint": self.fingerprint, **header}, sort_keys=True)
        }
        return save(tensors, metadata=metadata)

    @staticmethod
    def load(path: str | StorePath) -> PhiSStandardiser:
        """Read a file written by `save`. Raises CacheError when it is missing, damaged or of another format."""
        again = "make it again with `chorus-stage1 calibrate`"
        try:
            with local_copy(parse_store_path(path)) as file, safe_open(file, framework="numpy") as handle:
                header = json.loads((handle.metadata() or {}).get("chorus", "{}"))
                if header.get("format") != _FORMAT:
                    raise CacheError(f"{path}: not a PHI-S standardiser of format {_FORMAT}; {again}")
                mean, rotation, phi, eigenvalues = (handle.get_tensor(key) for key in _TENSORS)
            text = {key: header[key] for key in ("spec", "teacher_fingerprint", "construction")}
            standardiser = PhiSStandardiser(mean, rotation, float(phi[0]), eigenvalues, **text)
            sound = standardiser.fingerprint == header["fingerprint"]
        except FileNotFoundError:
            raise CacheError(f"{path}: no such PHI-S standardiser; make it with `chorus-stage1 calibrate`") from None
        except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, OSError) as error:
            raise CacheError(f"{path}: damaged PHI-S standardiser ({error}); {again}") from None
        if not sound:
            raise CacheError(f"{path}: damaged PHI-S standardiser (checksum differs); {again}")
        return standardiser


def phi_s(moments: Moments, *, spec: str = "", teacher_fingerprint: str = "", seed: int = 0) -> PhiSStandardiser:
    """The PHI-S standardiser of a teacher whose tokens have these moments.

    Eigenvectors come in descending order of variance, each with the sign that makes the diagonal of U^T non-negative
    (RADIO's convention; ties and signs of `eigh` still differ between libraries, which is why the matrix itself is
    stored). Raises CacheError without any spread to scale by.
    """
    eigenvalues, vectors = np.linalg.eigh(moments.covariance)
    eigenvalues, vectors = np.maximum(eigenvalues[::-1], 0.0), vectors[:, ::-1]
    phi = float(np.sqrt(eigenvalues.mean()))
    if moments.count < 2 or not phi > 1e-12:
        raise CacheError(
            f"teacher {spec or '?'}: features of {moments.count} tokens have no variance; calibrate on more pictures"
        )
    rows = vectors.T
    rows = rows * np.where(np.diag(rows) < 0, -1.0, 1.0)[:, None]
    spread = hadamard(moments.mean.size, seed=seed)
    return PhiSStandardiser(
        moments.mean, spread.matrix @ rows, phi, eigenvalues, spec, teacher_fingerprint, spread.construction
    )
