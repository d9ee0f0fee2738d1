"""Run the cells of a batch, each in a process of its own: here, or on the workers of a dask cluster (Slurm's jobs, for
one).

A cell is exactly the command that the table shows: a cell that crashes or eats all memory takes nobody with it, and a
row can be made again by pasting its command. A cell that left out no scene for failure is kept with a key over its
command, the encoder's weights and the manifest; a second start runs what is missing, failed or has changed. What an
earlier run of a cell left is removed before it starts: only figures of this run can be taken for its figures.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chorus_common.cluster.pool import InThreads, Pool, WorkerLost, open_pool
from chorus_common.cluster.settings import ClusterConfig
from chorus_common.runtime.atomic import write_text_atomically
from chorus_common.runtime.bucket import BucketPath
from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED, ConfigError, WeightsError
from chorus_common.runtime.progress import progress
from chorus_common.runtime.store_path import StorePath, local_copy, parse_store_path
from evaluation.batch.matrix import BatchConfig, Cell
from evaluation.scene_scores import scores_path
from stage2_distill.hub import locate

#: Exit code of a program that Ctrl-C ended (chorus_common.runtime.errors.run_cli).
_INTERRUPTED = 130

_PROGRAM = "import sys; sys.argv[0] = 'chorus-eval'; from evaluation.cli import main; main()"


@dataclass(frozen=True)
class CellOutcome:
    """How a cell ended. problem: "" where there is a result, else the reason in one line; code: the command's exit code
    (1 with a result: scenes failed, and the figures are those of the others).
    """

    cell: Cell
    problem: str
    code: int

    @property
    def complete(self) -> bool:
        """Whether nothing is left to try again."""
        return not self.problem and self.code == EXIT_DONE


def run_cells(
    config: BatchConfig, cells: Sequence[Cell], out: Path, cluster: ClusterConfig, *, threads: int
) -> list[CellOutcome]:
    """Run what is not done yet; outcomes in the order of `cells`.

    cluster: where cells run. On other machines `out` and everything that the commands name must be reached by the same
    paths.
    threads: of each cell. It is a setting and not the cores' number divided by the workers: sums of floats may depend
    on the number of threads, and the number of workers must change no figure.
    """
    keys = {cell: cell_key(config, cell) for cell in cells}
    found: dict[Cell, CellOutcome] = {}
    waiting = []
    for cell in cells:
        if _is_done(cell, out, keys[cell]):
            found[cell] = CellOutcome(cell, "", EXIT_DONE)
        else:
            waiting.append(cell)
    with progress(len(cells), "batch", done=len(found)) as report:
        for outcome in _outcomes(waiting, out, cluster, threads):
            if outcome.complete:
                write_text_atomically(_key_path(outcome.cell, out), keys[outcome.cell] + "\n")
            else:
                report.say(f"failed: {outcome.cell.name}: {outcome.problem or 'some of its scenes (see the table)'}")
            found[outcome.cell] = outcome
            report.advance(1, outcome.cell.name)
    return [found[cell] for cell in cells]


def cell_key(config: BatchConfig, cell: Cell) -> str:
    """SHA-256 over the command, the encoder's files (of features: their names, sizes and times) and the manifest.

    Raises ConfigError where one is missing.
    """
    digest = hashlib.sha256(json.dumps(cell.arguments).encode())
    given: list[tuple[str, StorePath]] = []
    if cell.encoder in config.features:
        digest.update(_listing(parse_store_path(config.features[cell.encoder]), cell.encoder))
    else:
        try:
            encoder = locate(config.encoders[cell.encoder]).path
        except WeightsError as error:
            raise ConfigError(
                f"encoder {cell.encoder}: {error} (paths are relative to where the command runs)"
            ) from None
        files = [encoder] if encoder.is_file() else [encoder / "config.json", encoder / "model.safetensors"]
        given = [(f"encoder {cell.encoder}", file) for file in files]
    manifest = parse_store_path(config.datasets[cell.dataset].manifest)
    for what, place in [*given, (f"data set {cell.dataset}", manifest)]:
        try:
            with local_copy(place) as path, path.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
        except FileNotFoundError:
            hint = " (paths are relative to where the command runs)" if isinstance(place, Path) else ""
            raise ConfigError(f"{what}: {place} does not exist{hint}") from None
    return digest.hexdigest()


def _listing(folder: StorePath, name: str) -> bytes:
    """Names, sizes and times of the files of a folder of features. Raises ConfigError where there is no folder."""
    if isinstance(folder, BucketPath):
        found: object = sorted(folder.files().items()) if folder.lists else str(folder)
    elif folder.is_dir():
        stats = ((file, file.stat()) for file in sorted(folder.rglob("*.npy")))
        found = [(file.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    else:
        raise ConfigError(f"features {name}: {folder} does not exist (paths are relative to where the command runs)")
    return json.dumps(found).encode()


def run_cell(cell: Cell, out: Path, threads: int) -> CellOutcome:
    """Run one cell in a process of its own; its output goes to cells/<name>.log."""
    result = cell.result(out)
    result.parent.mkdir(parents=True, exist_ok=True)
    # A traceback exits with 1, as failed scenes do: a result that lies there must be this run's. The key goes first.
    for stale in (_key_path(cell, out), result, scores_path(result)):
        stale.unlink(missing_ok=True)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads))
    command = [sys.executable, "-c", _PROGRAM, *cell.arguments, "--out", str(result)]
    log = result.with_suffix(".log")
    with log.open("w", encoding="utf-8") as handle:
        code = subprocess.run(command, stdout=handle, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if code == _INTERRUPTED:
        raise KeyboardInterrupt
    if code in (EXIT_DONE, EXIT_SOME_FAILED) and result.is_file():
        return CellOutcome(cell, "", code)
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return CellOutcome(cell, f"{lines[-1] if lines else 'no output'} (exit code {code}; {log})", code)


def _outcomes(cells: Sequence[Cell], out: Path, cluster: ClusterConfig, threads: int) -> Iterator[CellOutcome]:
    """Outcomes as they come."""
    run = functools.partial(run_cell, out=out.resolve(), threads=threads)
    with contextlib.ExitStack() as stack:
        # Here a worker only waits for its cell's process: a thread is enough.
        local = cluster.scheduler == "local"
        pool: Pool = InThreads(max(1, cluster.workers)) if local else stack.enter_context(open_pool(cluster))
        for done in pool.map(run, cells):
            lost = done.result
            yield CellOutcome(done.job, lost.reason, EXIT_SOME_FAILED) if isinstance(lost, WorkerLost) else lost


def _key_path(cell: Cell, out: Path) -> Path:
    return cell.result(out).with_suffix(".key")


def _is_done(cell: Cell, out: Path, key: str) -> bool:
    path = _key_path(cell, out)
    return cell.result(out).is_file() and path.is_file() and path.read_text(encoding="utf-8").strip() == key
