"""From a release to a store of prepared scenes and its manifest: many scenes, on several processes, going on where it
stopped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from chorus_common.manifest import Manifest, ManifestRow, check_name
from chorus_common.runtime.errors import ChorusError, ManifestError, is_full_disk, one_line
from chorus_common.runtime.processes import each_as_done
from chorus_common.runtime.progress import progress
from data_manifests.datasets.find import Found
from data_manifests.datasets.gaussians import gaussians_of, trained_path
from data_manifests.datasets.matterport import find_matterport, read_matterport_scene
from data_manifests.datasets.outcomes import PrepareOutcome, write_outcomes
from data_manifests.datasets.point_tables import find_point_tables, read_point_table
from data_manifests.datasets.pointcept import find_pointcept, read_pointcept
from data_manifests.datasets.raw_scene import RawScene, SceneSource
from data_manifests.datasets.s3dis import find_s3dis, read_s3dis
from data_manifests.datasets.scannet import find_scannet, read_scannet_scan
from data_manifests.datasets.scannetpp import find_scannetpp, read_scannetpp_scene
from data_manifests.datasets.scenesplat import find_scenesplat, read_scenesplat
from data_manifests.datasets.settings import PrepareConfig
from data_manifests.datasets.store import CAMERAS, publish, published, sweep

#: Raised whenever the program starts to write something else: scenes prepared before are then made anew.
_FORMAT = 1

MANIFEST = "manifest.parquet"


class ReleaseReader(NamedTuple):
    """How one kind of release is read: `find(release, root, wanted splits)`, `read(source, root, release, label
    spaces)`.
    """

    find: Callable[[Any, Path, list[str]], Found]
    read: Callable[[SceneSource, Path, Any, list[str]], RawScene]


LAYOUTS: dict[str, ReleaseReader] = {
    "scannet": ReleaseReader(find_scannet, read_scannet_scan),
    "scannetpp": ReleaseReader(find_scannetpp, read_scannetpp_scene),
    "matterport3d": ReleaseReader(find_matterport, read_matterport_scene),
    "s3dis": ReleaseReader(find_s3dis, read_s3dis),
    "scenesplat": ReleaseReader(find_scenesplat, read_scenesplat),
    "pointcept": ReleaseReader(find_pointcept, read_pointcept),
    "point-tables": ReleaseReader(find_point_tables, read_point_table),
}


@dataclass(frozen=True)
class Prepared:
    """What a run did: an outcome per scene in the manifest's order, what was noticed, and where the manifest lies."""

    outcomes: tuple[PrepareOutcome, ...]
    notes: tuple[str, ...]
    manifest: Path


@dataclass(frozen=True)
class PrepareJob:
    """One scene to prepare. root, out: absolute."""

    config: PrepareConfig
    root: Path
    out: Path
    source: SceneSource

    @property
    def folder(self) -> Path:
        return self.out / self.config.name / self.source.scene_id

    def fingerprint(self) -> str:
        """Hash of everything that the prepared scene follows from: the settings, and the names, sizes and times of the
        files.
        """
        settings = self.config.model_dump(mode="json", exclude={"name", "splits"})
        stats = []
        for file in (*self.source.files, *trained_path(self.config, self.root, self.source)):
            stat = file.stat() if file.exists() else None
            name = file.relative_to(self.root) if file.is_relative_to(self.root) else file
            stats.append([str(name), stat and stat.st_size, stat and stat.st_mtime_ns])
        text = json.dumps([_FORMAT, settings, stats], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def prepare(config: PrepareConfig, root: Path, out: Path, *, workers: int = 1) -> Prepared:
    """Prepare the scenes of the release at `root` into the store `out`.

    Scenes that are there and follow from the same files and settings are left alone; a scene that cannot be read fails
    alone, with its reason. The manifest then lists what is good; other data sets of the store stay in it.

    Args:
        workers: processes; the bytes do not depend on their number.

    Raises:
        ManifestError: nothing is found, or a split list is wrong. ChorusError: a worker process died.
    """
    root, out = root.resolve(), out.resolve()
    check_name(config.name, "data set")
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder; --root is where the release lies")
    if out.is_relative_to(root) or root.is_relative_to(out / config.name):
        raise ManifestError(f"{out}: the store must lie outside of the release {root}")
    found = LAYOUTS[config.release.layout].find(config.release, root, config.splits)
    if not found.scenes:
        hint = f" ({found.notes[0]})" if found.notes else ""
        where = f" in split {', '.join(config.splits)}" if config.splits else ""
        raise ManifestError(f"{root}: no scenes of layout {config.release.layout}{where}{hint}; is --root the release?")
    sources = sorted(found.scenes, key=lambda source: (source.split, source.scene_id))
    for a, b in pairwise(sorted(source.scene_id for source in sources)):
        if a == b:
            raise ManifestError(f"{root}: scene {a} is found twice")
    outcomes: dict[str, PrepareOutcome] = {}
    waiting = []
    for job in (PrepareJob(config, root, out, source) for source in sources):
        if (summary := published(job.folder, job.fingerprint())) is not None:
            outcomes[job.source.scene_id] = PrepareOutcome(job.source.scene_id, job.source.split, summary, fresh=False)
        else:
            waiting.append(job)
    sweep(out / config.name)
    failed = 0
    with progress(len(sources), f"prepare {config.name}", done=len(outcomes)) as report:
        for _, outcome in each_as_done(prepare_scene, waiting, workers):
            outcomes[outcome.scene_id] = outcome
            if outcome.error:
                failed += 1
                report.say(f"failed: {outcome.scene_id}: {outcome.error}")
            report.advance(note=f"{failed} failed" if failed else "")
    ordered = tuple(outcomes[source.scene_id] for source in sources)
    return Prepared(ordered, tuple(found.notes), _write_tables(config, out, ordered))


def prepare_scene(job: PrepareJob) -> PrepareOutcome:
    """Prepare one scene; what is wrong with it becomes the outcome's error.

    Raises OSError where the disk is full: no other scene would fare better.
    """
    source, config = job.source, job.config
    try:
        fingerprint = job.fingerprint()
        raw = LAYOUTS[config.release.layout].read(source, job.root, config.release, config.label_spaces)
        if raw.points is not None:
            raw.points.truth.check(str(source.path), len(raw.points))
        gaussians = gaussians_of(raw, source, job.root, config)
        gaussians.labels.check(str(source.path), len(gaussians.scene))
        gaussians.scene.validated()
        summary = publish(job.folder, raw, gaussians, config.label_spaces, fingerprint)
    except ChorusError as error:
        return PrepareOutcome(source.scene_id, source.split, error=one_line(error))
    except MemoryError:
        return PrepareOutcome(source.scene_id, source.split, error=f"{source.path}: not enough memory for this scene")
    except OSError as error:
        if is_full_disk(error):
            raise
        return PrepareOutcome(source.scene_id, source.split, error=one_line(error))
    return PrepareOutcome(source.scene_id, source.split, summary)


def _write_tables(config: PrepareConfig, out: Path, outcomes: tuple[PrepareOutcome, ...]) -> Path:
    """Write the table of outcomes and the manifest; both keep what other runs put in. Returns the manifest's path."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".manifest.lock", "w") as lock:  # runs over other splits or data sets may end at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_outcomes(out / "outcomes" / f"{config.name}.parquet", outcomes)
        return _merged_manifest(config, out, outcomes).write(out / MANIFEST)


def _merged_manifest(config: PrepareConfig, out: Path, outcomes: tuple[PrepareOutcome, ...]) -> Manifest:
    """This run's good scenes, and those of other runs that are still there."""
    path, rows = out / MANIFEST, []
    ran = {outcome.scene_id for outcome in outcomes}
    if path.is_file():
        rows = [
            row
            for row in Manifest.read(path)
            if (row.dataset != config.name or row.scene_id not in ran) and row.scene_path.is_dir()
        ]
    for outcome in outcomes:
        if outcome.error:
            continue
        folder = out / config.name / outcome.scene_id
        spaces = [space for space in config.label_spaces if space in outcome.summary["gaussian_labels"]]
        rows.append(
            ManifestRow(
                dataset=config.name,
                scene_id=outcome.scene_id,
                split=outcome.split,
                format="npy-folder",
                scene_path=folder,
                cameras_path=folder / CAMERAS if "views" in outcome.summary else None,
                label_space=spaces[0] if spaces else "",
                n_gaussians=outcome.summary["gaussians"],
                sha256=outcome.summary["sha256"],
            )
        )
    rows.sort(key=lambda row: (row.dataset, row.split, row.scene_id))
    return Manifest(out, tuple(rows))
