"""How much of each scene the views of stage 1 cover: the first thing to look at where a lifted teacher is weak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chorus_common.cache import SceneCache, is_published
from chorus_common.runtime.errors import CacheError
from chorus_common.runtime.store_path import parse_store_path

#: A Gaussian counts as covered from this many views on (stage 1's `coverage_views`).
VIEWS = 3


def covered(document: Mapping[str, Any]) -> dict[str, float]:
    """Scene of a result -> share of its Gaussians that at least `VIEWS` views see, as measured by stage 1.

    Scenes whose store is not there any more, or does not carry the figure, are not in it.
    """
    found = {}
    stores = [parse_store_path(store) for store in document["inputs"]["stores"]]
    for scene in document["per_scene"]:
        try:
            path = next((p for store in stores if is_published(p := store / f"{scene}.zarr")), None)
            if path is None:
                continue
            share = SceneCache.open(path).attributes.measures.get(f"covered_by_{VIEWS}_views")
        except CacheError:
            continue
        if share is not None:
            found[scene] = share
    return found
