"""ScanNet's submission format of instance segmentation, in and out.

    <scene id>.txt                               per line: relative path of a mask, label id, confidence
    predicted_masks/<scene id>_<number>.txt      one number per line and vertex, not 0 = in the mask

Source: the benchmark's documentation and BenchmarkScripts/util_3d.py (read_instance_prediction_file), which refuses
absolute paths and paths that leave the folder. Mask3D and its relatives write the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.runtime.atomic import write_bytes_atomically, write_text_atomically
from chorus_common.runtime.errors import SceneError

MASKS = "predicted_masks"


@dataclass(frozen=True, eq=False)
class InstanceFile:
    """masks [P, V] bool CSR in the file's vertex order, label ids [P] (the benchmark's), scores [P]."""

    masks: sparse.csr_matrix
    label_ids: NDArray[np.int64]
    scores: NDArray[np.float64]


def write_instances(
    folder: Path,
    scene_id: str,
    masks: sparse.csr_matrix,
    label_ids: NDArray[np.integer],
    scores: NDArray[np.floating],
) -> Path:
    """Write one scene's instances; the list comes last, so that a list's masks are all there."""
    lines = []
    for number in range(masks.shape[0]):
        row = np.full((masks.shape[1], 2), ord("0"), dtype=np.uint8)  # "0\n" per vertex
        row[:, 1] = ord("\n")
        row[masks.indices[masks.indptr[number] : masks.indptr[number + 1]], 0] = ord("1")
        name = f"{MASKS}/{scene_id}_{number:03d}.txt"
        write_bytes_atomically(folder / name, row.tobytes())
        lines.append(f"{name} {int(label_ids[number])} {float(scores[number]):.6f}\n")
    path = folder / f"{scene_id}.txt"
    write_text_atomically(path, "".join(lines))
    return path


def read_instances(path: Path, n_vertices: int, who: str) -> InstanceFile:
    """Read a scene's list and its masks of `n_vertices` lines.

    Raises SceneError, one line that names the file (and the line), for what does not fit.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise SceneError(f"{who}: {path}: no such instance file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SceneError(f"{who}: {path}: not a readable instance file ({error})") from None
    rows: list[NDArray[np.int64]] = []
    ids: list[int] = []
    scores: list[float] = []
    root = path.parent.resolve()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = line.split()
        try:
            name, label, score = parts[0], int(parts[1]), float(parts[2])
            if len(parts) != 3 or not np.isfinite(score):
                raise ValueError
        except (ValueError, IndexError):
            raise SceneError(f"{who}: {path} line {number}: expected 'mask-file label-id confidence'") from None
        file = (root / name).resolve()
        if Path(name).is_absolute() or not file.is_relative_to(root):
            raise SceneError(f"{who}: {path} line {number}: mask '{name}' lies outside the file's folder")
        rows.append(np.flatnonzero(_read_mask(file, n_vertices, who)))
        ids.append(label)
        scores.append(score)
    indptr = np.cumsum([0] + [len(row) for row in rows])
    indices = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    masks = sparse.csr_matrix((np.ones(len(indices), bool), indices, indptr), shape=(len(rows), n_vertices))
    return InstanceFile(masks, np.array(ids, np.int64), np.array(scores, np.float64))


def _read_mask(path: Path, n_vertices: int, who: str) -> NDArray[np.bool_]:
    try:
        raw = path.read_bytes()
        # The common form first: one digit and a newline per vertex.
        table = np.frombuffer(raw if raw.endswith(b"\n") else raw + b"\n", dtype=np.uint8)
        if len(table) == 2 * n_vertices and (table[1::2] == ord("\n")).all() and _digits(table[::2]):
            return table[::2] != ord("0")
        mask = np.array([float(word) for word in raw.split()]) != 0
    except FileNotFoundError:
        raise SceneError(f"{who}: {path}: no such mask file") from None
    except (OSError, ValueError) as error:
        raise SceneError(f"{who}: {path}: not a mask of numbers ({error})") from None
    if len(mask) != n_vertices:
        raise SceneError(f"{who}: {path} has {len(mask)} lines, the scene {n_vertices} vertices")
    return mask


def _digits(characters: NDArray[np.uint8]) -> bool:
    return bool(((characters >= ord("0")) & (characters <= ord("9"))).all())
