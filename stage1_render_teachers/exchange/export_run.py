"""Many caches -> many folders; what is done is what is there, so that the same command goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from chorus_common.cache import published_scenes, sweep_orphans
from chorus_common.cluster.pool import open_pool
from chorus_common.manifest import ManifestRow
from chorus_common.runtime.errors import CacheError
from chorus_common.runtime.progress import progress
from chorus_common.runtime.store_path import StorePath
from stage1_render_teachers.exchange.export_scene import ExportJob, export_scene
from stage1_render_teachers.run import RunSummary, run_jobs
from stage1_render_teachers.settings import RunConfig
from stage1_render_teachers.store import require_store, scene_path


def published_rows(store: StorePath, dataset: str | None = None) -> list[ManifestRow]:
    """A row per published scene (of `dataset`), without a split, since a store knows of none."""
    require_store(store)
    found = [path for path in published_scenes(store) if dataset in (None, path.parent.name)]
    return [ManifestRow(path.parent.name, path.stem, "", "", Path(), None, "", 0, "") for path in found]


def run_export(
    rows: Sequence[ManifestRow], store: StorePath, out: Path, run: RunConfig, teachers: Mapping[str, str], *, unit: bool
) -> RunSummary:
    """Write the folder of every published scene of `rows`: `<out>/<data set>/<split>/<scene id>`.

    teachers: stem -> teacher of the store, by name or spec; none = all dense teachers. Raises CacheError where the
    store has none of the scenes; scenes fail one by one.
    """
    started = time.time()
    require_store(store)
    there = set(published_scenes(store))
    published = [row for row in rows if scene_path(store, row) in there]
    if not published:
        raise CacheError(f"--store {store}: holds none of the {len(rows)} scenes that are asked for")
    for folder in sorted({out / row.dataset / row.split for row in published}):
        if folder.is_dir():
            sweep_orphans(folder, older_than=started)
    named = tuple(sorted(teachers.items()))
    jobs = [ExportJob(row, store, out, named, unit, run.overwrite) for row in published]
    with open_pool(run) as pool, progress(len(jobs), "export") as report:
        return run_jobs(jobs, pool, export_scene, None, report, run.max_failures, run.retries)
