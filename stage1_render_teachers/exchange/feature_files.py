"""Features per Gaussian beside a scene's folder of .npy files, as SceneSplat and the released Chorus keep them.

    <stem>_feat.npy         [K, C] f16 (f32 is taken, too), one row per Gaussian that was seen
    <stem>_feat_index.npy   [K] integers: which row of the scene each belongs to, in any order, none twice
    valid_feat_mask.npy     [N] bool or 0 and 1: which rows have features; asked where there is no index and K = N
    exchange.json           ours: which teachers the stems stand for

Stems are `lang`, `dino` and `pe` there. Without index and mask, rows of zeros are those without features (SceneSplat
datasets/preprocessing/scannet/preprocess_scannet_gs.py). Files are mapped and never held whole: a scene's features may
be larger than the memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chorus_common.cache.names import UNRECORDED
from chorus_common.runtime.config import Config
from chorus_common.runtime.errors import SceneError
from chorus_common.scene_io.npy import open_npy

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

MASK, DOCUMENT = "valid_feat_mask.npy", "exchange.json"
#: How the spec of a teacher begins of which only the stem is known.
IMPORTED = "imported:"
#: Rows that are read at a time.
BLOCK = 1 << 14


class TeacherOrigin(Config):
    """Which teacher the features of a stem are of."""

    spec: str
    fingerprint: str = UNRECORDED
    text_aligned: bool = False


class ExchangeDocument(Config):
    """What `exchange.json` says of the folder that it lies in."""

    format: str = "chorus-exchange-1"
    cache: str = Field(default="", description="fingerprint of the cache that the folder was written from")
    settings: str = Field(default="", description="hash of how it was written")
    teachers: dict[str, TeacherOrigin] = Field(default_factory=dict)
    alignment: dict[str, float | list[float]] = Field(
        default_factory=dict, description="from the frame of the scene's file to the folder's: quat (w, x, y, z), scale"
    )


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of K rows of a scene.

    rows [K] i64: the scene's rows that have features, ascending. path: the file. values [M, C] floats: a map of it;
    places [K] i64: where in it each row's features stand.
    """

    rows: I64
    path: Path
    values: NDArray[np.floating]
    places: I64

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def channels(self) -> int:
        return int(self.values.shape[1])

    def read(self, chosen: I64) -> F32:
        """Features [B, C] of rows[chosen], in that order. Raises SceneError for one that is not finite."""
        places = self.places[chosen]
        along = np.argsort(places, kind="stable")  # the file is read in its own order
        found = np.empty((len(places), self.channels), np.float32)
        found[along] = self.values[places[along]]
        finite = np.isfinite(found).all(1)
        if not finite.all():
            bad = int(places[np.argmin(finite)])
            raise SceneError(f"{self.path}: row {bad} is not finite (f16 ends at 65504); repair it or leave it out")
        return found


def stems_of(folder: Path) -> tuple[str, ...]:
    """Stems of the feature files in `folder`, sorted."""
    return tuple(sorted(path.name.removesuffix("_feat.npy") for path in folder.glob("[!.]*_feat.npy")))


def read_document(folder: Path) -> ExchangeDocument:
    """What `exchange.json` says, an empty document where there is none. Raises SceneError for a damaged one."""
    path = folder / DOCUMENT
    try:
        return ExchangeDocument.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return ExchangeDocument()
    except (ValueError, OSError):
        raise SceneError(f"{path}: not a document of chorus-stage1 export; delete it to take the files alone") from None


def open_features(folder: Path, stem: str, n: int) -> FeatureTable:
    """The features of `stem` in the folder of a scene of `n` rows.

    Raises SceneError, one line that names the file, for what is missing, truncated, or does not fit the scene.
    """
    path = folder / f"{stem}_feat.npy"
    values = _open(path)
    if values.ndim != 2 or values.dtype.kind != "f" or values.shape[1] < 1:
        raise SceneError(f"{path}: holds {values.dtype} {list(values.shape)}, expected floats [K, C]")
    index, mask = folder / f"{stem}_feat_index.npy", folder / MASK
    if index.is_file():
        rows = _read_index(index, len(values), n)
        places = np.argsort(rows, kind="stable")
        return FeatureTable(rows[places], path, values, places)
    if len(values) != n:
        raise SceneError(
            f"{path}: has {len(values)} rows and the scene {n} Gaussians; {index.name} should say which they are"
        )
    known = _read_mask(mask, n) if mask.is_file() else _not_zero(values)
    rows = np.flatnonzero(known)
    return FeatureTable(rows, path, values, rows)


def _open(path: Path) -> NDArray[Any]:
    try:
        return open_npy(path)
    except FileNotFoundError:
        raise SceneError(f"{path}: no such file; --teachers says which features are taken") from None
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror})") from None


def _read_index(path: Path, count: int, n: int) -> I64:
    """Rows [K] of the scene, as the file has them."""
    array = _open(path)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise SceneError(f"{path}: holds {array.dtype} {list(array.shape)}, expected integers [K]")
    if len(array) != count:
        raise SceneError(f"{path}: has {len(array)} entries for {count} rows of features")
    rows = np.array(array, np.int64)
    outside = (rows < 0) | (rows >= n)
    if outside.any():
        place = int(np.argmax(outside))
        raise SceneError(f"{path}: entry {place} is {rows[place]}, the scene has {n} Gaussians; is it another scene's?")
    if len(twice := np.flatnonzero(np.diff(np.sort(rows)) == 0)):
        raise SceneError(f"{path}: names row {np.sort(rows)[twice[0]]} twice")
    return rows


def _read_mask(path: Path, n: int) -> NDArray[np.bool_]:
    array = _open(path)
    if array.shape != (n,) or array.dtype.kind not in "biu":
        raise SceneError(f"{path}: holds {array.dtype} {list(array.shape)}, expected truth values [{n}]")
    return np.asarray(array != 0)


def _not_zero(values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which rows [N] hold anything but zeros, a block of the file at a time."""
    blocks = [np.asarray(values[begin : begin + BLOCK] != 0).any(1) for begin in range(0, len(values), BLOCK)]
    return np.concatenate([*blocks, np.zeros(0, np.bool_)])
