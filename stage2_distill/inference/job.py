"""Features of one or many scenes: what SCENE stands for, who is done already, what failed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from chorus_common.manifest import Manifest
from chorus_common.runtime.atomic import write_text_atomically
from chorus_common.runtime.errors import ChorusError, ConfigError, one_line
from chorus_common.runtime.progress import progress
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
class Job:
    """Everything that scenes share.

    Attributes:
        model: in eval mode, on its device. origin: of its weights, for the records.
        kind: "gaussians" | "points" | "auto". without: attributes that are fed as zeros.
        block_voxels, scratch: see `encode.Blocks`; scratch None = beside the results.
    """

    model: Encoder | Student
    origin: Origin
    request: Request
    kind: str = "auto"
    without: tuple[str, ...] = ()
    block_voxels: int | None = None
    scratch: Path | None = None
    max_gaussians: int = MAX_GAUSSIANS
    lod: int = 0

    @property
    def encoder(self) -> Encoder:
        return self.model if isinstance(self.model, Encoder) else self.model.encoder

    def run(self, path: Path, target: Target, *, shown: bool = True, say: Callable[[str], None] = warn) -> bool:
        """Write one scene's features unless they are there already; whether anything was done.

        shown: with progress. say: gets a line for each thing that the scene check found.
        """
        key = self._key(path)
        if _finished(target, key):
            return False
        started = time.monotonic()
        scene = read_scene(path, max_gaussians=self.max_gaussians, lod=self.lod)
        absent = (*self._absent(path), *self.without)
        blocks = Blocks((self.scratch or target.work.parent) / target.work.name / "blocks", self.block_voxels)
        facts = write_features(self.model, scene, target, self.request, absent=absent, blocks=blocks, shown=shown)
        shutil.rmtree(blocks.scratch.parent, ignore_errors=True)
        for line in facts["findings"]:
            say(f"{path}: {line}")
        self.record(target, path, facts | {"status": "done", "seconds": round(time.monotonic() - started, 2)})
        return True

    def record(self, target: Target, path: Path, facts: dict[str, Any]) -> None:
        """Note how a scene went."""
        content = {
            "scene": str(path),
            "key": self._key(path),
            "encoder": self.origin.model_dump(),
            "request": asdict(self.request),
            **facts,
        }
        write_text_atomically(target.record, json.dumps(content, indent=2) + "\n")

    def _absent(self, path: Path) -> tuple[str, ...]:
        config = self.encoder.config
        points = self.kind == "points" or (
            self.kind == "auto" and config.inputs.indicator and probe(path).format.startswith("point-")
        )
        return missing_in_points(config) if points else ()

    def _key(self, path: Path) -> str:
        """Names what a scene's results depend on."""
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        stats = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files if p.exists()]
        what = [str(path.resolve()), stats, asdict(self.request), self.origin.sha256, self.kind, self.without,
                self.block_voxels, self.lod, str(next(self.encoder.parameters()).device)]  # fmt: skip
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def run_all(job: Job, scenes: Sequence[tuple[Path, Target]], workers: int) -> int:
    """Work through the scenes, some at a time; one that cannot be encoded is recorded and the others go on.

    Returns: how many failed.
    """
    failed = 0
    with progress(len(scenes), "scenes") as report, ThreadPoolExecutor(workers) as pool:

        def one(entry: tuple[Path, Target]) -> str:
            path, target = entry
            try:
                job.run(path, target, shown=False, say=report.say)
            except (ChorusError, OSError) as error:
                shutil.rmtree(target.work, ignore_errors=True)
                job.record(target, path, {"status": "failed", "error": one_line(error)})
                return one_line(error)
            return ""

        for problem in pool.map(one, scenes):
            failed += bool(problem)
            if problem:
                report.say(f"error: {problem}")
            report.advance(note=f"{failed} failed" if failed else "")
    return failed


def find_scenes(path: Path) -> list[tuple[str, Path]]:
    """(plain name, path) of the scenes that SCENE stands for: a file, a folder of .npy files, a folder of scenes, or a
    manifest. ConfigError where there are none, or two have one name.
    """
    found = list(_scenes(path))
    if not found:
        raise ConfigError(f"{path}: holds no scenes ({', '.join(ENDINGS)} files or folders of .npy files)")
    seen: dict[str, Path] = {}
    for name, scene in found:
        if name in seen:
            raise ConfigError(f"{path}: {seen[name].name} and {scene.name} would both be called '{name}'; rename one")
        seen[name] = scene
    return found


def _scenes(path: Path) -> Iterator[tuple[str, Path]]:
    if path.suffix == ".parquet":
        rows = Manifest.read(path).rows
        repeated = len({row.scene_id for row in rows}) < len(rows)
        for row in rows:
            yield (f"{row.dataset}_{row.scene_id}" if repeated else row.scene_id), row.scene_path
    elif path.is_dir() and not is_scene_folder(path):
        for child in sorted(path.iterdir()):
            is_scene = is_scene_folder(child) if child.is_dir() else child.suffix.lower() in ENDINGS
            if is_scene and not child.name.startswith("."):
                yield scene_name(child), child
    else:
        yield scene_name(path), path


def targets(scenes: Sequence[tuple[str, Path]], out: Path, outputs: Sequence[str], format: FileFormat) -> list[Target]:
    """Where each scene's files go: into the folder `out`; or, of one scene and one output, to the file `out`."""
    if out.suffix in (".npy", ".pt", ".safetensors"):
        if len(scenes) != 1 or len(outputs) != 1:
            raise ConfigError(f"{out}: one file holds one output of one scene; give a folder for several")
        if out.suffix != f".{format}":
            raise ConfigError(f"{out}: ends in {out.suffix}, the format is {format}; give one of them")
        return [Target(str(out.with_suffix("")), True, format)]
    return [Target(str(out / f"{name}_"), False, format) for name, _ in scenes]


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
