"""Copy published scenes from one place to another: a bucket to a disk, on which training is faster, or back."""

from __future__ import annotations

import shutil
import uuid

import google_crc32c

from chorus_common.cache.files import is_published, open_files
from chorus_common.cache.names import TEMPORARY_PREFIX
from chorus_common.cache.publish import publish_folder, scratch_folder
from chorus_common.cache.schema import FILES
from chorus_common.cache.store import load_records, remedy
from chorus_common.runtime.errors import CacheError
from chorus_common.runtime.store_path import StorePath


def copy_scene(source: StorePath, target: StorePath) -> bool:
    """Publish at `target` the scene that is published at `source`, every byte checked on the way.

    False where `target` is there already: it stays as it is. Raises CacheError where the source is missing or damaged.
    """
    if is_published(target):
        return False
    files = open_files(source)
    records = load_records(files)
    folder = scratch_folder(target) / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        for name in (*records, FILES):
            try:
                data = files.read(name)
            except OSError as error:
                raise CacheError(f"cache {source}: {name} is missing ({error.strerror}); {remedy(source)}") from None
            if name in records and (len(data), google_crc32c.value(data)) != records[name]:
                raise CacheError(f"cache {source}: {name} is damaged (checksum differs); {remedy(source)}")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return publish_folder(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
