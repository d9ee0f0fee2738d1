"""A store of teacher caches as a whole: where its scenes lie, whether it is there, whether it can be written to."""

from __future__ import annotations

import os
import uuid

from chorus_common.manifest import ManifestRow
from chorus_common.runtime.bucket import BucketError, BucketPath
from chorus_common.runtime.errors import CacheError, one_line
from chorus_common.runtime.store_path import StorePath


def scene_path(store: StorePath, row: ManifestRow) -> StorePath:
    """Where the cache of a scene is published."""
    return store / row.dataset / f"{row.scene_id}.zarr"


def require_store(store: StorePath) -> None:
    """Raises CacheError where there is no store at all."""
    if not store.is_dir():
        raise CacheError(f"--store {store}: no such folder; chorus-stage1 run makes it")


def prepare_store(store: StorePath) -> None:
    """Make the store's folder, or see that the bucket can be used. Raises CacheError when that cannot be."""
    if isinstance(store, BucketPath):
        check_bucket(store)
        return
    if store.exists() and not store.is_dir():
        raise CacheError(f"--store {store}: is a file; give a folder")
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(f"--store {store}: cannot be made ({error.strerror})") from None
    if not os.access(store, os.W_OK | os.X_OK):
        raise CacheError(f"--store {store}: cannot be written to")


def check_bucket(store: BucketPath) -> None:
    """See that `store` can be written to and that its server creates an object once only, on which publishing rests.

    Raises CacheError.
    """
    probe = store / f".probe-{uuid.uuid4().hex}"
    try:
        if not probe.create_bytes(b"first") or probe.create_bytes(b"second"):
            raise CacheError(f"--store {store}: this server ignores If-None-Match, so that two writers would clash")
    finally:
        probe.unlink()


def already_published(path: StorePath, scene_id: str, fingerprint: str, *, overwrite: bool) -> bool:
    """Whether the scene's cache is at `path` with the `fingerprint` that it would get now.

    A cache with another fingerprint, or a damaged one, is removed with `overwrite` and a CacheError otherwise: mixing
    settings in one store, or trusting a broken cache, must be somebody's decision. Overwriting reads every byte, so
    that it mends what `verify` finds; otherwise lengths and metadata are looked at.
    """
    from chorus_common.cache import SceneCache, is_published, unpublish

    if not is_published(path):
        return False
    try:
        found = SceneCache.open(path, check="full" if overwrite else "fast").fingerprint
        problem = "was published with other settings, teachers or input files"
    except BucketError:  # nothing is known about the scene: neither done nor damaged
        raise
    except CacheError as error:
        found, problem = "", one_line(error)
    if found == fingerprint:
        return True
    if not overwrite:
        raise CacheError(f"scene {scene_id}: {problem}; give --overwrite to redo it, or use another --store")
    unpublish(path)
    return False
