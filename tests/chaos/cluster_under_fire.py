"""A dask cluster of real processes (scheduler, workers with their keepers, `chorus-stage1 run`) that can be shot
at, and a user who starts again whatever is gone.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2


class ClusterUnderFire:
    """One run of stage 1 over `manifest` into `store`; `kills` are the moments at which something was killed."""

    def __init__(
        self, folder: Path, manifest: Path, store: Path, settings: Sequence[str], workers: int = WORKERS
    ) -> None:
        folder.mkdir()
        self.store, self.kills = store, list[float]()
        self._starts, self._file, self._log = folder / "starts", folder / "scheduler.json", folder / "log"
        self._client_arguments = [f"--manifest={manifest}", f"--store={store}", f"--scheduler={self._file}", *settings]
        self._scheduler = self._start_scheduler()
        self._workers = [self._start_worker(i) for i in range(workers)]
        self._client = self._start_client()
        self.errors: list[bytes] = []

    # -- processes ---------------------------------------------------------------------------------------------------

    def _start(self, *arguments: str, errors: int | None = None) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1",
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0", "CHAOS_STARTS": str(self._starts),
        }  # fmt: skip
        log = open(self._log, "ab")  # noqa: SIM115
        with log:
            return subprocess.Popen(
                [sys.executable, *arguments], stdout=log, stderr=log if errors is None else errors,
                start_new_session=True, env=environment, cwd=ROOT,
            )  # fmt: skip

    def _start_scheduler(self) -> subprocess.Popen[bytes]:
        self._file.unlink(missing_ok=True)
        return self._start(
            "-m", "distributed.cli.dask_scheduler", "--scheduler-file", str(self._file), "--host", "127.0.0.1",
            "--port", "0", "--no-dashboard",
        )  # fmt: skip

    def _start_worker(self, number: int) -> subprocess.Popen[bytes]:
        return self._start(
            "-m", "distributed.cli.dask_worker", "--scheduler-file", str(self._file), "--nthreads", "1", "--nanny",
            "--no-dashboard", "--death-timeout", "120", "--memory-limit", "0", "--preload",
            str(Path(__file__).with_name("worker_preload.py")),
        )  # fmt: skip

    def _start_client(self) -> subprocess.Popen[bytes]:
        deadline = time.monotonic() + 300
        while not self._file.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        program = "from stage1_render_teachers.cli import main; main()"
        return self._start("-c", program, "run", *self._client_arguments, errors=subprocess.PIPE)

    def heal(self) -> int | None:
        """Start again what is gone. The client's exit code once it says 0 (done), else None."""
        if self._scheduler.poll() is not None:
            self._scheduler = self._start_scheduler()
        for number, worker in enumerate(self._workers):
            if worker.poll() is not None:
                _kill_group(worker)  # a worker process that outlived its keeper
                self._workers[number] = self._start_worker(number)
        code = self._client.poll()
        if code is None:
            return None
        assert self._client.stderr is not None
        self.errors.append(self._client.stderr.read())
        self._client.stderr.close()
        if code == 0:
            return 0
        self._client = self._start_client()
        return None

    # -- shots -------------------------------------------------------------------------------------------------------

    def at_work(self) -> bool:
        """Whether a scene was begun since the last shot: so that shots hit work, and not programs that just start."""
        try:
            begun = self._starts.read_text().splitlines()
        except FileNotFoundError:
            return False
        return bool(begun) and float(begun[-1].split()[1]) > max(self.kills, default=0.0)

    def shoot(self, rng: random.Random) -> str:
        """SIGKILL one of: a worker process, a worker with its keeper, the client, the scheduler. What was hit."""
        target = rng.choices(("worker", "keeper", "client", "scheduler"), weights=(5, 2, 2, 1))[0]
        self.kills.append(time.time())
        keeper = rng.choice(self._workers)
        if target == "worker":
            children = psutil.Process(keeper.pid).children() if keeper.poll() is None else []
            for child in children:
                child.kill()
        elif target == "keeper":
            _kill_group(keeper)
        elif target == "client":
            _kill_group(self._client)
        else:
            self.shoot_scheduler()
        return target

    def shoot_scheduler(self) -> None:
        self.kills.append(time.time())
        _kill_group(self._scheduler)

    def end_workers(self) -> None:
        """As a user does whose scheduler is gone; left alone they look for it for most of a minute."""
        for worker in self._workers:
            _kill_group(worker)

    def close(self) -> None:
        for process in (self._client, *self._workers, self._scheduler):
            _kill_group(process)
            if process.stderr is not None:
                process.stderr.close()

    def starts(self) -> dict[str, list[float]]:
        """Scene -> the moments at which some worker began it."""
        found: dict[str, list[float]] = {}
        for line in self._starts.read_text().splitlines():
            scene, moment = line.split()
            found.setdefault(scene, []).append(float(moment))
        return found


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait(30)
