"""Features of one or many scenes: what SCENE stands for, who is done already, what failed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from chorus_common.manifest import Manifest
from chorus_common.runtime.atomic import write_text_atomically
from chorus_common.runtime.errors import ChorusError, ConfigError, one_line
from chorus_common.runtime.progress import progress
from chorus_common.scene_check import AlignmentSettings
from chorus_common.scene_io import MAX_GAUSSIANS, is_scene_folder, probe, read_scene
from chorus_common.scene_io.bounds import scene_name
from stage2_distill.encode import Blocks
from stage2_distill.encoder import Encoder
from stage2_distill.encoder.inputs import ATTRIBUTE_WIDTHS, missing_in_points
from stage2_distill.hub import Origin
from stage2_distill.inference.files import FileFormat, Target
from stage2_distill.inference.scene import Request, write_features
from stage2_distill.student import Student

#: Endings of files in a folder of scenes that are read.
ENDINGS = (".ply", ".splat", ".ksplat", ".spz", ".sog", ".glb", ".gltf", ".npz")


def warn(line: str) -> None:
    """Print a line for the one who runs the program."""
    click.echo(line, err=True)


@dataclass(frozen=True)
class Found:
    """A scene to encode: its plain name, where it lies, and what a manifest says of reading and aligning it."""

    name: str
    path: Path
    lod: int = 0
    max_gaussians: int = MAX_GAUSSIANS
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)


@dataclass(frozen=True)
class Job:
    """Everything that scenes share.

    Attributes:
        model: in eval mode, on its device. origin: of its weights, for the records.
        kind: "gaussians" | "points" | "auto". without: attributes that are fed as zeros.
        block_voxels, scratch: see `encode.Blocks`; scratch None = beside the results.
        max_gaussians, lod: how scenes are read; None = as the manifest says, or without one as usual.
    """

    model: Encoder | Student
    origin: Origin
    request: Request
    kind: str = "auto"
    without: tuple[str, ...] = ()
    block_voxels: int | None = None
    scratch: Path | None = None
    max_gaussians: int | None = None
    lod: int | None = None

    @property
    def encoder(self) -> Encoder:
        return self.model if isinstance(self.model, Encoder) else self.model.encoder

    def run(self, found: Found, target: Target, *, shown: bool = True, say: Callable[[str], None] = warn) -> bool:
        """Write one scene's features unless they are there already; whether anything was done.

        shown: with progress. say: gets a line for each thing that the scene check found.
        """
        key, path = self._key(found), found.path
        if _finished(target, key):
            return False
        started = time.monotonic()
        limit = self.max_gaussians or found.max_gaussians
        scene = read_scene(path, max_gaussians=limit, lod=self._lod(found))
        absent = (*self._absent(found), *self.without)
        blocks = Blocks((self.scratch or target.work.parent) / target.work.name / "blocks", self.block_voxels)
        request = self._request(found)
        facts = write_features(self.model, scene, target, request, absent=absent, blocks=blocks, shown=shown)
        shutil.rmtree(blocks.scratch.parent, ignore_errors=True)
        for line in facts["findings"]:
            say(f"{path}: {line}")
        self.record(target, found, facts | {"status": "done", "seconds": round(time.monotonic() - started, 2)})
        return True

    def record(self, target: Target, found: Found, facts: dict[str, Any]) -> None:
        """Note how a scene went."""
        content = {
            "scene": str(found.path),
            "key": self._key(found),
            "encoder": self.origin.model_dump(),
            "request": asdict(self._request(found)),
            "lod": self._lod(found),
            **facts,
        }
        write_text_atomically(target.record, json.dumps(content, indent=2) + "\n")

    def _lod(self, found: Found) -> int:
        return found.lod if self.lod is None else self.lod

    def _request(self, found: Found) -> Request:
        """The request for this scene: what a manifest says of it, where the command line leaves it open."""
        told = AlignmentSettings(up=self.request.up, scale=self.request.scale, outliers=self.request.outliers)
        return replace(self.request, **told.or_else(found.alignment).model_dump())

    def _absent(self, found: Found) -> tuple[str, ...]:
        config = self.encoder.config
        points = self.kind == "points" or (
            self.kind == "auto"
            and config.inputs.indicator
            and probe(found.path, lod=self._lod(found)).format.startswith("point-")
        )
        return missing_in_points(config) if points else ()

    def _key(self, found: Found) -> str:
        """Names what a scene's results depend on."""
        path = found.path
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        stats = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files if p.exists()]
        device = str(next(self.encoder.parameters()).device)
        what = [str(path.resolve()), stats, asdict(self._request(found)), self.origin.sha256, self.kind, self.without,
                self.block_voxels, self._lod(found), device]  # fmt: skip
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def run_all(job: Job, scenes: Sequence[tuple[Found, Target]], workers: int) -> int:
    """Work through the scenes, some at a time; one that cannot be encoded is recorded and the others go on.

    Returns: how many failed.
    """
    failed = 0
    with progress(len(scenes), "scenes") as report, ThreadPoolExecutor(workers) as pool:

        def one(entry: tuple[Found, Target]) -> str:
            found, target = entry
            try:
                job.run(found, target, shown=False, say=report.say)
            except (ChorusError, OSError) as error:
                shutil.rmtree(target.work, ignore_errors=True)
                job.record(target, found, {"status": "failed", "error": one_line(error)})
                return one_line(error)
            return ""

        for problem in pool.map(one, scenes):
            failed += bool(problem)
            if problem:
                report.say(f"error: {problem}")
            report.advance(note=f"{failed} failed" if failed else "")
    return failed


def find_scenes(path: Path) -> list[Found]:
    """The scenes that SCENE stands for: a file, a folder of .npy files, a folder of scenes, or a manifest. ConfigError
    where there are none, or two have one name.
    """
    found = list(_scenes(path))
    if not found:
        raise ConfigError(f"{path}: holds no scenes ({', '.join(ENDINGS)} files or folders of .npy files)")
    seen: dict[str, Path] = {}
    for scene in found:
        if scene.name in seen:
            others = f"{seen[scene.name].name} and {scene.path.name}"
            raise ConfigError(f"{path}: {others} would both be called '{scene.name}'; rename one")
        seen[scene.name] = scene.path
    return found


def _scenes(path: Path) -> Iterator[Found]:
    if path.suffix == ".parquet":
        rows = Manifest.read(path).rows
        repeated = len({row.scene_id for row in rows}) < len(rows)
        for row in rows:
            name = f"{row.dataset}_{row.scene_id}" if repeated else row.scene_id
            yield Found(name, row.scene_path, row.lod, row.max_gaussians, row.alignment)
    elif path.is_dir() and not is_scene_folder(path):
        for child in sorted(path.iterdir()):
            is_scene = is_scene_folder(child) if child.is_dir() else child.suffix.lower() in ENDINGS
            if is_scene and not child.name.startswith("."):
                yield Found(scene_name(child), child)
    else:
        yield Found(scene_name(path), path)


def targets(scenes: Sequence[Found], out: Path, outputs: Sequence[str], format: FileFormat) -> list[Target]:
    """Where each scene's files go: into the folder `out`; or, of one scene and one output, to the file `out`."""
    if out.suffix in (".npy", ".pt", ".safetensors"):
        if len(scenes) != 1 or len(outputs) != 1:
            raise ConfigError(f"{out}: one file holds one output of one scene; give a folder for several")
        if out.suffix != f".{format}":
            raise ConfigError(f"{out}: ends in {out.suffix}, the format is {format}; give one of them")
        return [Target(str(out.with_suffix("")), True, format)]
    return [Target(str(out / f"{scene.name}_"), False, format) for scene in scenes]


def check_without(model: Encoder | Student, names: Sequence[str]) -> tuple[str, ...]:
    """The attributes to be fed as zeros. ConfigError for one that the encoder does not take."""
    encoder = model if isinstance(model, Encoder) else model.encoder
    features = encoder.config.inputs.features
    if wrong := [n for n in names if n not in features or n not in ATTRIBUTE_WIDTHS]:
        raise ConfigError(f"encoder {encoder.config.name} takes no '{wrong[0]}'; it takes {', '.join(features)}")
    return tuple(names)


def _finished(target: Target, key: str) -> bool:
    """Whether a record says that the same request was answered, and its files are there."""
    try:
        record = json.loads(target.record.read_text(encoding="utf-8"))
        files = [target.record.with_name(name) for name in record["files"].values()]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
    return record.get("status") == "done" and record.get("key") == key and all(f.exists() for f in files)
