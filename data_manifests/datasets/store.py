"""One prepared scene on disk: a folder that `read_scene` and the evaluation read as it is.

    <out>/<data set>/<scene id>/coord, color, opacity, scale, quat, normal .npy    Gaussians [N] (scene_io.npy_folder)
                                segment20, segment200, segment, ... .npy           their labels, per label space
                                instance.npy                                       their instances
                                pc_coord.npy [M, 3], pc_<segment file>.npy, pc_instance.npy    the points to score, all
                                transforms.json                                    cameras, where the release has them
                                scene.json                                         counts and notes
                                .source.json                                       what it was made from (not hashed)

Folders are published by rename: one that is there is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.camera_io import write_transforms_json
from chorus_common.labels import SPACES
from chorus_common.manifest import path_digest
from chorus_common.runtime.atomic import fsync_directory, write_text_atomically
from chorus_common.scene_io import write_npy_folder
from data_manifests.datasets.gaussians import LabelledGaussians
from data_manifests.datasets.raw_scene import Annotations, RawScene

SUMMARY, SOURCE, CAMERAS = "scene.json", ".source.json", "transforms.json"

#: Seconds without a write after which a temporary folder has no writer; a scene takes some of them.
_ABANDONED = 3600.0


def publish(
    folder: Path, raw: RawScene, gaussians: LabelledGaussians, label_spaces: list[str], fingerprint: str
) -> dict[str, Any]:
    """Write a scene to `folder`, in place of what was there; returns its summary (scene.json) with its digest.

    fingerprint: of everything that the scene follows from; `published` compares it.
    """
    temporary = folder.with_name(f".tmp-{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        summary = _write(temporary, raw, gaussians, label_spaces)
        (temporary / SUMMARY).write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        source = {"fingerprint": fingerprint, "sha256": path_digest(temporary)}
        write_text_atomically(temporary / SOURCE, json.dumps(source) + "\n")
        fsync_directory(temporary)
        if folder.exists():
            old = folder.with_name(f".tmp-{uuid.uuid4().hex}")
            os.replace(folder, old)
            shutil.rmtree(old)
        os.replace(temporary, folder)
        fsync_directory(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return summary | {"sha256": source["sha256"]}


def published(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The summary of the scene in `folder`, if it was made from the same things; else None."""
    try:
        source = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return summary | {"sha256": source["sha256"]} if source["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def sweep(folder: Path) -> None:
    """Remove what killed runs left in a data set's folder: temporary folders without a write for an hour."""
    for path in folder.glob(".tmp-*"):
        if path.is_dir() and time.time() - path.stat().st_mtime > _ABANDONED:
            shutil.rmtree(path, ignore_errors=True)


def _write(folder: Path, raw: RawScene, gaussians: LabelledGaussians, label_spaces: list[str]) -> dict[str, Any]:
    plain = replace(gaussians.scene, labels=None, instances=None, label_space="")
    write_npy_folder(plain, folder)
    labels = _labels_to_write(gaussians.labels, label_spaces)
    for stem, values in labels.items():
        _save(folder / f"{stem}.npy", values)
    summary: dict[str, Any] = {
        "gaussians": len(plain), "dropped": gaussians.dropped, "notes": list(raw.notes),
        "gaussian_labels": _counts(gaussians.labels, label_spaces, len(plain)),
    }  # fmt: skip
    if raw.points is not None:
        truth: dict[str, NDArray[Any]] = {"coord": raw.points.coord}
        truth |= _labels_to_write(raw.points.truth, label_spaces)
        for stem, values in truth.items():
            if gaussians.all_points:
                _link(folder / f"{stem}.npy", folder / f"pc_{stem}.npy")
            else:
                _save(folder / f"pc_{stem}.npy", values)
        summary["points"] = len(raw.points)
        summary["point_labels"] = _counts(raw.points.truth, label_spaces, len(raw.points))
    if raw.cameras is not None:
        write_transforms_json(raw.cameras, folder / CAMERAS)
        summary["views"] = len(raw.cameras)
    return summary


def _labels_to_write(labels: Annotations, label_spaces: list[str]) -> dict[str, NDArray[np.integer]]:
    files: dict[str, NDArray[np.integer]] = {
        SPACES[space].file: labels.segments[space] for space in label_spaces if space in labels.segments
    }
    if labels.instances is not None:
        narrow = labels.instances.max(initial=-1) < 2**15
        files["instance"] = labels.instances.astype(np.int16) if narrow else labels.instances
    return files


def _counts(labels: Annotations, label_spaces: list[str], n: int) -> Mapping[str, Any]:
    """Rows with a class per label space; those annotated with something outside it; those that nobody annotated; the
    number of instances.
    """
    report: dict[str, Any] = {}
    for space in label_spaces:
        if space not in labels.segments:
            continue
        labelled = int(np.count_nonzero(labels.segments[space] >= 0))
        if labels.annotated is None:
            report[space] = {"labelled": labelled, "without": n - labelled}
        else:
            annotated = int(np.count_nonzero(labels.annotated))
            report[space] = {"labelled": labelled, "outside": annotated - labelled, "unannotated": n - annotated}
    if labels.instances is not None:
        report["instances"] = int(np.count_nonzero(np.unique(labels.instances) >= 0))
    return report


def _save(file: Path, values: NDArray[Any]) -> None:
    with open(file, "wb") as handle:
        np.save(handle, np.ascontiguousarray(values), allow_pickle=False)
        handle.flush()
        os.fsync(handle.fileno())


def _link(there: Path, also: Path) -> None:
    """Give a file a second name where the file system can; copy it elsewhere."""
    try:
        os.link(there, also)
    except OSError:
        shutil.copyfile(there, also)
