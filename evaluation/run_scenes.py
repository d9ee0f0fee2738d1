"""One job over many scenes: in order or on several processes, with the same result; what is done survives a kill.

A job makes a scene into a small partial result (counts, never scores): plain JSON, and arrays beside it, where it is to
survive a kill. Partial results are put together in the order of the scenes, so that no result depends on which process
was faster.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chorus_common.runtime.atomic import write_bytes_atomically, write_text_atomically
from chorus_common.runtime.bucket import BucketPath
from chorus_common.runtime.errors import CacheError, ChorusError, one_line
from chorus_common.runtime.processes import each_as_done
from chorus_common.runtime.progress import progress
from chorus_common.runtime.store_path import StorePath
from evaluation.scenes import EvalScene, Selection

SceneResult = dict[str, Any]
SceneTask = Callable[[EvalScene], SceneResult]


class NoGroundTruthError(ChorusError):
    """A scene that cannot be scored and is no failure: it is left out, visibly."""


@dataclass(frozen=True)
class PartialResults:
    """Where the partial results of an unfinished job wait: a JSON file per scene in `folder`, and an .npz for the
    arrays at a partial result's top level, written first; valid for one `key` alone.

    key: hash of everything that changes a partial result, beside the scene's own files.
    """

    folder: Path
    key: str

    @staticmethod
    def beside(
        out: Path, inputs: Mapping[str, Any], model: Path | None = None, data: StorePath | None = None
    ) -> PartialResults:
        """Partial results of the job that will write `out`: valid for these inputs, the contents of `model` (a file or
        a model's folder) and the files under `data` as they are now (names, sizes, times); those on a web server, which
        does not list, are taken for unchanged.
        """
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode())
        for file in _files_of(model):
            with file.open("rb") as handle:
                digest.update(file.name.encode() + hashlib.file_digest(handle, "sha256").digest())
        if isinstance(data, BucketPath):
            found = data.files() if data.lists else {}
            digest.update(json.dumps([str(data), sorted(found.items())]).encode())
        else:
            for file in sorted(data.rglob("*")) if data is not None else ():
                stat = file.stat()
                digest.update(f"{file}:{stat.st_size}:{stat.st_mtime_ns}".encode())
        return PartialResults(out.with_name(f".{out.name}.partial"), digest.hexdigest())

    def load(self, scene: EvalScene) -> SceneResult | None:
        """The partial result of `scene`, if it was kept for the same key and the scene has not changed since."""
        try:
            kept = json.loads(self._path(scene).read_text(encoding="utf-8"))
            if kept.get("key") != self._scene_key(scene):
                return None
            if kept.get("arrays"):
                with np.load(self._arrays_path(scene), allow_pickle=False) as arrays:
                    kept["scene_result"] |= {name: arrays[name] for name in kept["arrays"]}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        return kept["scene_result"]

    def save(self, scene: EvalScene, scene_result: SceneResult) -> None:
        arrays = {name: value for name, value in scene_result.items() if isinstance(value, np.ndarray)}
        if arrays:
            self._path(scene).unlink(missing_ok=True)  # killed in between, no other key's result may claim these arrays
            content = io.BytesIO()
            np.savez(content, **arrays)  # type: ignore[arg-type]  # mypy takes them for allow_pickle
            write_bytes_atomically(self._arrays_path(scene), content.getvalue())
        plain = {name: value for name, value in scene_result.items() if name not in arrays}
        kept = {"key": self._scene_key(scene), "arrays": list(arrays), "scene_result": plain}
        write_text_atomically(self._path(scene), json.dumps(kept))

    def of_step(self, name: str, also: bytes = b"") -> PartialResults:
        """Partial results of one of several steps of the job, in a folder of their own; `also`: what they depend on
        besides."""
        return PartialResults(self.folder / name, hashlib.sha256(self.key.encode() + also).hexdigest())

    def clear(self) -> None:
        """The result is written: the partial results are no longer needed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, scene: EvalScene) -> Path:
        return self.folder / f"{scene.dataset}__{scene.scene_id}.json"

    def _arrays_path(self, scene: EvalScene) -> Path:
        return self._path(scene).with_suffix(".npz")

    def _scene_key(self, scene: EvalScene) -> str:
        return hashlib.sha256(f"{self.key}:{scene.state()}".encode()).hexdigest()


def run_scenes(
    selection: Selection, job: SceneTask, *, label: str, workers: int = 1, partial: PartialResults | None = None
) -> dict[str, SceneResult]:
    """Partial results by scene name, in the order of `selection`.

    A scene for which `job` raises a ChorusError is left out with the reason (`NoGroundTruthError`: without counting as
    failed). Raises CacheError where no scene is left.
    """
    found: dict[str, SceneResult] = {}
    for scene in selection.scenes:
        if partial is not None and (scene_result := partial.load(scene)) is not None:
            found[scene.name] = scene_result
    waiting = [scene for scene in selection.scenes if scene.name not in found]
    with progress(len(selection.scenes), label, done=len(found)) as report:
        for scene, outcome in each_as_done(_Attempt(job), waiting, workers, start=_one_thread):
            if isinstance(outcome, ChorusError):
                selection.leave_out(scene, one_line(outcome), failed=not isinstance(outcome, NoGroundTruthError))
                report.say(f"left out: {scene.name}: {one_line(outcome)}")
            else:
                found[scene.name] = outcome
                if partial is not None:
                    partial.save(scene, outcome)
            report.advance()
    selection.scenes = [scene for scene in selection.scenes if scene.name in found]
    # The order in which scenes failed depends on the workers; what is shown does not.
    selection.excluded = dict(sorted(selection.excluded.items()))
    if not found:
        raise CacheError(f"no scene could be evaluated ({'; '.join(list(selection.excluded.values())[:3])})")
    return {scene.name: found[scene.name] for scene in selection.scenes}


@dataclass(frozen=True)
class _Attempt:
    """A job whose ChorusErrors are outcomes."""

    job: SceneTask

    def __call__(self, scene: EvalScene) -> SceneResult | ChorusError:
        try:
            return self.job(scene)
        except ChorusError as error:
            return error


def _one_thread() -> None:
    """In a worker process: the processes share the cores; results do not depend on threads."""
    torch.set_num_threads(1)


def _files_of(path: Path | None) -> list[Path]:
    """What of a model's path changes its numbers: the file, or a folder's weights and config."""
    if path is None:
        return []
    return [file for file in (path, path / "config.json", path / "model.safetensors") if file.is_file()]
