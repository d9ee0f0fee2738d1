"""The teacher cache: one Zarr v3 store per scene, the only thing stage 2 reads. Layout in schema.py, reasons in
docs/design/cache.md.
"""

from typing import TYPE_CHECKING

from chorus_common.runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from chorus_common.cache.copy import copy_scene
    from chorus_common.cache.files import is_published, published_bytes, published_scenes, unpublish
    from chorus_common.cache.fingerprint import cache_fingerprint
    from chorus_common.cache.names import SCHEMA_VERSION
    from chorus_common.cache.orphans import sweep_orphans
    from chorus_common.cache.reader import SceneCache
    from chorus_common.cache.schema import CacheAttributes, EmbeddingSource, GridAttributes, SceneHeader
    from chorus_common.cache.verify import Problem, verify_store
    from chorus_common.cache.writer import SceneCacheWriter

__all__ = [
    "SCHEMA_VERSION",
    "CacheAttributes",
    "EmbeddingSource",
    "GridAttributes",
    "Problem",
    "SceneCache",
    "SceneCacheWriter",
    "SceneHeader",
    "cache_fingerprint",
    "copy_scene",
    "is_published",
    "published_bytes",
    "published_scenes",
    "sweep_orphans",
    "unpublish",
    "verify_store",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "chorus_common.cache.copy": ("copy_scene",),
        "chorus_common.cache.files": ("is_published", "published_bytes", "published_scenes", "unpublish"),
        "chorus_common.cache.fingerprint": ("cache_fingerprint",),
        "chorus_common.cache.names": ("SCHEMA_VERSION",),
        "chorus_common.cache.orphans": ("sweep_orphans",),
        "chorus_common.cache.reader": ("SceneCache",),
        "chorus_common.cache.schema": ("CacheAttributes", "EmbeddingSource", "GridAttributes", "SceneHeader"),
        "chorus_common.cache.verify": ("Problem", "verify_store"),
        "chorus_common.cache.writer": ("SceneCacheWriter",),
    },
)
