"""One hash for everything that changes a number of a scene's store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from pydantic import BaseModel

from chorus_common.cameras import CameraSet
from chorus_common.scene import GaussianScene


def cache_fingerprint(
    scene: GaussianScene | str, cameras: CameraSet | str, settings: Mapping[str, Any] | BaseModel
) -> str:
    """sha256 (hex) of scene, cameras and settings.

    scene, cameras: the data, or a digest that stands for it (the manifest's sha256 of the scene file, a rule for
    choosing views), so that a run can tell whether a store is up to date without reading the scene. settings: every
    setting that changes a number (JSON values or a Config), with the teachers' fingerprints and the standardisers'; the
    order of keys does not matter.
    """
    digest = hashlib.sha256()
    for part in (scene, cameras):
        if isinstance(part, str):
            digest.update(b"digest\0" + part.encode() + b"\0")
        else:
            _hash_record(digest, part)
    content = settings.model_dump(mode="json") if isinstance(settings, BaseModel) else dict(settings)
    digest.update(json.dumps(content, sort_keys=True, default=_plain, allow_nan=False).encode())
    return digest.hexdigest()


def _hash_record(digest: Any, record: GaussianScene | CameraSet) -> None:
    for item in fields(record):
        value = getattr(record, item.name)
        if isinstance(value, np.ndarray):
            little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
            digest.update(f"{item.name} {little.dtype.str} {little.shape}\0".encode())
            digest.update(little.data if little.size else b"")
        else:
            digest.update(f"{item.name} {json.dumps(value)}\0".encode())


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"settings hold a {type(value).__name__}, which has no canonical JSON form")
