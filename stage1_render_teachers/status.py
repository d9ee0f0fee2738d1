"""Where a store stands against its manifest: done, failed with reasons, pending, how fast, how large, how well
covered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import Any

from chorus_common.cache.files import published_bytes, published_scenes
from chorus_common.manifest import ManifestRow
from chorus_common.runtime.errors import CacheError, one_line
from chorus_common.runtime.progress import duration
from chorus_common.runtime.store_path import StorePath
from stage1_render_teachers.outcomes import SceneOutcome, read_outcomes
from stage1_render_teachers.store import require_store, scene_path


@dataclass(frozen=True)
class StoreStatus:
    """State of a store.

    Attributes:
        total, done, pending: scenes; failed: "dataset/scene_id" -> the reason of the last attempt.
        bytes: of all published scenes.
        scenes_per_hour: over the latest stretch of work, 0 when nothing is known; seconds_left: for pending scenes.
        coverage: mean share of Gaussians that enough views see; least_covered: the scene where it is smallest.
        interior_coverage: mean share of the Gaussians of rooms that enough chosen views see; empty_pixels: mean share
            of the pixels that show nothing; emptiest: the scene where it is largest.
        seconds_per_scene: step -> mean seconds.
        errors: teacher -> mean cosines of quantisation.
    """

    total: int
    done: int
    pending: int
    failed: dict[str, str]
    bytes: int
    scenes_per_hour: float
    seconds_left: float | None
    coverage: float | None
    least_covered: str
    interior_coverage: float | None = None
    empty_pixels: float | None = None
    emptiest: str = ""
    seconds_per_scene: dict[str, float] = field(default_factory=dict)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def store_status(rows: Sequence[ManifestRow], store: StorePath) -> StoreStatus:
    """The state of `store` for the scenes `rows`. Raises CacheError when there is no such store."""
    require_store(store)
    outcomes = read_outcomes(store)
    published = set(
        published_scenes(store)
    )  # one listing: asking for every scene would cost a request each in a bucket
    done: dict[str, SceneOutcome] = {}
    failed: dict[str, str] = {}
    for row in rows:
        key = f"{row.dataset}/{row.scene_id}"
        outcome = outcomes.get(key)
        path = scene_path(store, row)
        if path in published:  # the cache decides, not the record of an attempt
            try:
                done[key] = outcome if outcome and outcome.status == "done" else _from_cache(row, path)
            except CacheError as error:
                failed[key] = one_line(error)
        elif outcome is not None and outcome.status == "failed":
            failed[key] = outcome.error
    pending = len(rows) - len(done) - len(failed)
    speed = scenes_per_hour(list(done.values()))
    covered = {key: outcome.coverage for key, outcome in done.items() if outcome.n_gaussians}
    inside = [o.interior_coverage for o in done.values() if o.interior_coverage is not None]
    empty = {key: outcome.empty_pixels for key, outcome in done.items() if outcome.n_views}  # imported scenes have none
    timed = [outcome.seconds for outcome in done.values() if outcome.seconds]
    teachers = sorted({name for outcome in done.values() for name in outcome.errors})
    return StoreStatus(
        total=len(rows),
        done=len(done),
        pending=pending,
        failed=failed,
        bytes=sum(outcome.bytes for outcome in done.values()),
        scenes_per_hour=round(speed, 3),
        seconds_left=round(pending / speed * 3600, 1) if speed else (0.0 if not pending else None),
        coverage=round(fmean(covered.values()), 4) if covered else None,
        least_covered=min(covered, key=lambda key: (covered[key], key)) if covered else "",
        interior_coverage=round(fmean(inside), 4) if inside else None,
        empty_pixels=round(fmean(empty.values()), 4) if empty else None,
        emptiest=max(empty, key=lambda key: (empty[key], key)) if empty else "",
        seconds_per_scene=_means(timed),
        errors={name: _means([o.errors[name] for o in done.values() if name in o.errors]) for name in teachers},
    )


def scenes_per_hour(done: Sequence[SceneOutcome]) -> float:
    """Rate of the latest stretch of work: back from the newest outcome to the first long pause."""
    timed = sorted((o for o in done if o.finished and o.seconds), key=lambda o: o.finished, reverse=True)
    if not timed:
        return 0.0
    pause = max(600.0, 5 * median(o.seconds["total"] for o in timed))
    stretch = timed[:1]
    for outcome in timed[1:]:
        if stretch[-1].finished - outcome.finished > pause:
            break
        stretch.append(outcome)
    start = min(o.finished - o.seconds["total"] for o in stretch)
    return 3600 * len(stretch) / max(stretch[0].finished - start, 1e-3)


def _from_cache(row: ManifestRow, path: StorePath) -> SceneOutcome:
    """The outcome of a scene whose record was lost with a killed run. Raises CacheError for a damaged store."""
    from chorus_common.cache.reader import SceneCache  # slow to import, and hardly ever needed

    attributes = SceneCache.open(path).attributes
    return SceneOutcome(
        row.dataset, row.scene_id, "done", bytes=published_bytes(path), n_gaussians=attributes.n_gaussians,
        n_views=attributes.n_views,
        coverage=next((v for k, v in attributes.measures.items() if k.startswith("covered_by_")), attributes.coverage),
        empty_pixels=attributes.measures.get("empty_pixels", 0.0),
        interior_coverage=attributes.measures.get("interior_coverage"),
    )  # fmt: skip


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    keys = sorted({key for row in rows for key in row})
    return {key: round(fmean(row[key] for row in rows if key in row), 6) for key in keys}


def describe(status: StoreStatus) -> str:
    """The state as a few lines for people."""
    lines = [
        f"{status.done} done, {len(status.failed)} failed, {status.pending} pending of {status.total} scenes; "
        f"{status.bytes / 1e6:.1f} MB"
    ]
    if status.scenes_per_hour:
        left = f"; {duration(status.seconds_left)} left" if status.seconds_left else ""
        lines.append(f"{status.scenes_per_hour:.1f} scenes per hour{left}")
    if status.coverage is not None:
        lines.append(f"coverage {status.coverage:.1%} on average, least in {status.least_covered}")
    if status.interior_coverage is not None:
        lines.append(f"coverage of rooms whose views were chosen {status.interior_coverage:.1%} on average")
    if status.empty_pixels is not None:
        lines.append(f"empty pixels {status.empty_pixels:.1%} on average, most in {status.emptiest}")
    for name, errors in status.errors.items():
        lines.append(f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in errors.items()))
    if status.seconds_per_scene:
        steps = ", ".join(f"{key} {value:.2f}" for key, value in status.seconds_per_scene.items())
        lines.append(f"seconds per scene: {steps}")
    lines += [f"failed: {key}: {reason}" for key, reason in sorted(status.failed.items())]
    return "\n".join(lines)
