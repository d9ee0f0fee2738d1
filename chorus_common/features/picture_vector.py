"""One vector of a whole picture in the space of a dense teacher, and its file: what stage 1 writes and a query reads.

.npz with `vector` [C] f32 of length 1, `spec` and `fingerprint` of the teacher.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.atomic import atomic_path
from chorus_common.runtime.errors import ConfigError, one_line

F32 = NDArray[np.float32]
SUFFIX = ".npz"


@dataclass(frozen=True, eq=False)
class PictureVector:
    """vector [C] f32 of length 1; spec, fingerprint: of the teacher whose space it lies in."""

    vector: F32
    spec: str
    fingerprint: str

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, vector=self.vector, spec=np.array(self.spec), fingerprint=np.array(self.fingerprint))

    @classmethod
    def load(cls, path: Path) -> PictureVector:
        """Read the file. Raises ConfigError, one line, for anything else."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                vector = np.asarray(arrays["vector"], dtype=np.float32)
                spec, fingerprint = str(arrays["spec"]), str(arrays["fingerprint"])
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file") from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(
                f"{path}: no vector of a picture ({one_line(error)[:100]}); chorus-stage1 embed writes them"
            ) from None
        length = float(np.linalg.norm(vector))
        if vector.ndim != 1 or not np.isfinite(length) or length == 0:
            raise ConfigError(f"{path}: its vector has no direction; chorus-stage1 embed writes such files")
        return cls(vector / np.float32(length), spec, fingerprint)
