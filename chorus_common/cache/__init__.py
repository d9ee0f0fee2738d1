"""The teacher cache: one Zarr v3 store per scene, the only thing stage 2 reads. Layout in schema.py, reasons in
docs/design/cache.md.
"""

from chorus_common.cache.copy import copy_scene
from chorus_common.cache.files import is_published, published_bytes, published_scenes, unpublish
from chorus_common.cache.fingerprint import fingerprint
from chorus_common.cache.orphans import sweep_orphans
from chorus_common.cache.reader import SceneCache
from chorus_common.cache.schema import SCHEMA_VERSION, CacheAttributes, EmbeddingSource, GridAttributes, SceneHeader
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
    "copy_scene",
    "fingerprint",
    "is_published",
    "published_bytes",
    "published_scenes",
    "sweep_orphans",
    "unpublish",
    "verify_store",
]
