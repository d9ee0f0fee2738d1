"""One job over many scenes: in order or on several processes, with the same result; what is done survives a kill.

A job turns a scene into a small piece (counts, never scores): plain JSON, and arrays beside it, where it is to survive
a kill. Pieces are put together in the order of the scenes, so that no result depends on which process was faster.
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
from chorus_common.runtime.errors import CacheError, ChorusError, one_line
from chorus_common.runtime.processes import each_as_done
from chorus_common.runtime.progress import progress
from evaluation.scenes import EvalScene, Selection

Piece = dict[str, Any]
SceneJob = Callable[[EvalScene], Piece]


class NoGroundTruthError(ChorusError):
    """A scene that cannot be scored and is no failure: it is left out, visibly."""


@dataclass(frozen=True)
class Pieces:
    """Where the pieces of an unfinished job wait: a JSON file per scene in `folder`, and an .npz for the arrays at a
    piece's top level, written first; valid for one `key` alone.

    key: hash of everything that changes a piece, beside the scene's own files.
    """

    folder: Path
    key: str

    @staticmethod
    def beside(out: Path, inputs: Mapping[str, Any], model: Path | None = None, data: Path | None = None) -> Pieces:
        """Pieces of the job that will write `out`: valid for these inputs, the contents of `model` (a file or a model's
        folder) and the files under `data` as they are now (names, sizes, times).
        """
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode())
        for file in _files_of(model):
            with file.open("rb") as handle:
                digest.update(file.name.encode() + hashlib.file_digest(handle, "sha256").digest())
        for file in sorted(data.rglob("*")) if data is not None else ():
            stat = file.stat()
            digest.update(f"{file}:{stat.st_size}:{stat.st_mtime_ns}".encode())
        return Pieces(out.with_name(f".{out.name}.pieces"), digest.hexdigest())

    def load(self, scene: EvalScene) -> Piece | None:
        """The piece of `scene`, if it was kept for the same key and the scene has not changed since."""
        try:
            kept = json.loads(self._path(scene).read_text(encoding="utf-8"))
            if kept.get("key") != self._scene_key(scene):
                return None
            if kept.get("arrays"):
                with np.load(self._arrays_path(scene), allow_pickle=False) as arrays:
                    kept["piece"] |= {name: arrays[name] for name in kept["arrays"]}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        return kept["piece"]

    def save(self, scene: EvalScene, piece: Piece) -> None:
        arrays = {name: value for name, value in piece.items() if isinstance(value, np.ndarray)}
        if arrays:
            self._path(scene).unlink(missing_ok=True)  # killed in between, no other key's piece may claim these arrays
            content = io.BytesIO()
            np.savez(content, **arrays)  # type: ignore[arg-type]  # mypy takes them for allow_pickle
            write_bytes_atomically(self._arrays_path(scene), content.getvalue())
        plain = {name: value for name, value in piece.items() if name not in arrays}
        kept = {"key": self._scene_key(scene), "arrays": list(arrays), "piece": plain}
        write_text_atomically(self._path(scene), json.dumps(kept))

    def within(self, name: str, also: bytes = b"") -> Pieces:
        """Pieces of one of several steps of the job, in a folder of their own; `also`: what they depend on besides."""
        return Pieces(self.folder / name, hashlib.sha256(self.key.encode() + also).hexdigest())

    def clear(self) -> None:
        """The result is written: the pieces are no longer needed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, scene: EvalScene) -> Path:
        return self.folder / f"{scene.dataset}__{scene.scene_id}.json"

    def _arrays_path(self, scene: EvalScene) -> Path:
        return self._path(scene).with_suffix(".npz")

    def _scene_key(self, scene: EvalScene) -> str:
        return hashlib.sha256(f"{self.key}:{scene.state()}".encode()).hexdigest()


def run_scenes(
    selection: Selection, job: SceneJob, *, label: str, workers: int = 1, pieces: Pieces | None = None
) -> dict[str, Piece]:
    """Pieces by scene name, in the order of `selection`.

    A scene for which `job` raises a ChorusError is left out with the reason (`NoGroundTruthError`: without counting as
    failed). Raises CacheError where no scene is left.
    """
    found: dict[str, Piece] = {}
    for scene in selection.scenes:
        if pieces is not None and (piece := pieces.load(scene)) is not None:
            found[scene.name] = piece
    waiting = [scene for scene in selection.scenes if scene.name not in found]
    with progress(len(selection.scenes), label, done=len(found)) as report:
        for scene, outcome in each_as_done(_Attempt(job), waiting, workers, start=_one_thread):
            if isinstance(outcome, ChorusError):
                selection.leave_out(scene, one_line(outcome), failed=not isinstance(outcome, NoGroundTruthError))
                report.say(f"left out: {scene.name}: {one_line(outcome)}")
            else:
                found[scene.name] = outcome
                if pieces is not None:
                    pieces.save(scene, outcome)
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

    job: SceneJob

    def __call__(self, scene: EvalScene) -> Piece | ChorusError:
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
