"""Run many independent jobs: in this process, on worker processes of this machine, as Slurm jobs, or on a dask cluster.

The three rules that keep a long run healthy (all measured on dask.distributed):
- Only as many jobs are submitted as there are workers. The scheduler blames every job that merely waits on a dying
  worker, so a deep queue lets one poisonous scene take innocent ones with it.
- A result is recorded and its future released at once. A held result is recomputed when the worker that has it dies.
- What a job left behind on disk is the truth. The scheduler keeps nothing; a new run starts from the published stores.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from chorus_common.cluster.settings import ClusterConfig
from chorus_common.cluster.slurm_jobs import slurm_cluster
from chorus_common.runtime.errors import ChorusError, ConfigError, one_line
from chorus_common.runtime.processes import in_child

#: Seconds to wait for a scheduler to answer.
CONNECT_SECONDS = 20.0

J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True)
class WorkerLost:
    """Stands for the result of a job whose worker died under it, twice."""

    reason: str


@dataclass(frozen=True)
class Finished(Generic[J, R]):
    """One job and what came of it."""

    job: J
    result: R | WorkerLost


class Pool(Protocol):
    """Where jobs run."""

    def map(self, task: Callable[[J], R], jobs: Iterable[J]) -> Iterator[Finished[J, R]]:
        """Yield every job once, in order of completion. `task` does not raise for bad input: it returns what came."""
        ...


class InProcess:
    """One job after the other, here."""

    def map(self, task: Callable[[J], R], jobs: Iterable[J]) -> Iterator[Finished[J, R]]:
        for job in jobs:
            yield Finished(job, task(job))


class InThreads:
    """As many jobs at a time as there are threads: for jobs that start a process of their own and wait for it."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def map(self, task: Callable[[J], R], jobs: Iterable[J]) -> Iterator[Finished[J, R]]:
        with ThreadPoolExecutor(self._threads) as threads:
            futures = {threads.submit(task, job): job for job in jobs}
            try:
                for future in as_completed(futures):
                    yield Finished(futures[future], future.result())
            finally:
                threads.shutdown(wait=False, cancel_futures=True)


class DaskPool:
    """Jobs on the workers of a dask client. A job whose worker dies is tried once more, alone, after all others."""

    #: Seconds for which the number of workers is believed: asking the scheduler before every job would double its work.
    WIDTH_AGE = 5.0

    def __init__(self, client: Any) -> None:
        self._client = client
        self._width, self._width_asked = 1, float("-inf")

    def map(self, task: Callable[[J], R], jobs: Iterable[J]) -> Iterator[Finished[J, R]]:
        suspects: list[J] = []
        for done in self._pass(task, jobs):
            if isinstance(done.result, WorkerLost):
                suspects.append(done.job)
            else:
                yield done
        for job in suspects:
            yield from self._pass(task, [job])

    def _pass(self, task: Callable[[J], R], jobs: Iterable[J]) -> Iterator[Finished[J, R]]:
        """Run `jobs` with as many in flight as there are workers."""
        from distributed import CancelledError, KilledWorker
        from distributed import as_completed as as_each_completes

        waiting = iter(jobs)
        in_flight: dict[str, tuple[Any, J]] = {}
        completed = as_each_completes(with_results=True, raise_errors=False)

        def top_up() -> None:
            for job in islice(waiting, max(0, self.width() - len(in_flight))):
                future = self._client.submit(task, job, pure=False)
                in_flight[future.key] = (future, job)
                completed.add(future)

        try:
            top_up()
            while in_flight:
                future, result = next(completed)
                _, job = in_flight.pop(future.key)
                status = future.status
                future.release()
                top_up()
                if status == "finished":
                    yield Finished(job, result)
                elif isinstance(error := _exception(result), KilledWorker):
                    reason = "its worker process died (out of memory, or a crash in native code)"
                    yield Finished(job, WorkerLost(reason))
                elif isinstance(error, CancelledError) or error is None:
                    raise ChorusError("the dask scheduler is gone; start it and run the same command again to go on")
                else:
                    raise error
        finally:
            for future, _ in in_flight.values():
                future.release()

    def width(self) -> int:
        """Number of workers right now, at least 1: jobs wait for the first worker to come."""
        if time.monotonic() - self._width_asked > self.WIDTH_AGE:
            self._width = max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))
            self._width_asked = time.monotonic()
        return self._width


def _exception(result: Any) -> BaseException | None:
    """The exception in what `as_completed(with_results=True, raise_errors=False)` hands out for a failed future."""
    if isinstance(result, tuple) and len(result) == 3 and isinstance(result[1], BaseException):
        return result[1]
    return result if isinstance(result, BaseException) else None


@contextlib.contextmanager
def open_pool(config: ClusterConfig) -> Iterator[Pool]:
    """The pool that `config` asks for: `workers = 0` here, otherwise local processes, Slurm jobs, or a scheduler
    file's cluster.
    """
    if config.works_here:
        yield InProcess()
        return
    _silence_dask()
    if config.scheduler == "slurm":
        client = _slurm_client(config)
    elif config.scheduler == "local":
        client = _local_client(config)
    else:
        client = _remote_client(config.scheduler)
    with client as connected:
        yield DaskPool(connected)


def _silence_dask() -> None:
    """Workers and schedulers that die are reported by us, with the scene, in one line."""
    import distributed  # noqa: F401  its import gives these loggers levels of their own

    for name in ("distributed", "distributed.client", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def _remote_client(scheduler_file: str) -> Iterator[Any]:
    from distributed import Client

    if not Path(scheduler_file).is_file():
        raise ConfigError(
            f"--scheduler {scheduler_file}: no such file; give 'local', 'slurm', or start one with: "
            f"dask scheduler --scheduler-file {scheduler_file}"
        )
    try:
        address = json.loads(Path(scheduler_file).read_text(encoding="utf-8"))["address"]
        if not isinstance(address, str):
            raise ValueError
        client = Client(address, timeout=CONNECT_SECONDS)
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"--scheduler {scheduler_file}: not a scheduler file of dask") from None
    except (OSError, TimeoutError):
        raise ConfigError(f"--scheduler {scheduler_file}: no scheduler answers at {address}; is it running?") from None
    with client:
        yield client


@contextlib.contextmanager
def _local_client(config: ClusterConfig) -> Iterator[Any]:
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster

    with dask.config.set(_dask_settings(config)):
        workers = {
            i: {
                "cls": Nanny,
                "options": {
                    "nthreads": 1,
                    "env": worker_environment(i, config.workers, config.device),
                    "memory_limit": _memory_limit(config),
                    "silence_logs": logging.CRITICAL,
                    "dashboard_address": "127.0.0.1:0",
                    "preload": ["chorus_common.cluster.worker_preload"],
                },
            }
            for i in range(config.workers)
        }
        scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}}
        try:
            cluster = SpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.CRITICAL)
        except (RuntimeError, OSError) as error:
            raise ChorusError(
                f"the workers did not start ({one_line(error)}); --workers 0 does without them"
            ) from error
        with cluster, Client(cluster) as client:
            yield client


@contextlib.contextmanager
def _slurm_client(config: ClusterConfig) -> Iterator[Any]:
    """`config.workers` jobs (at least 1), submitted again when they end before the work does."""
    import dask
    from distributed import Client

    if config.device.startswith("cuda") and not config.slurm.gpus:
        raise ConfigError("--device cuda: the Slurm jobs ask for no GPU; write gpus = 1 into the file of --slurm")
    jobs = max(1, config.workers)
    with dask.config.set(_dask_settings(config)), slurm_cluster(config.slurm, {}) as cluster:
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
        with Client(cluster) as client:
            yield client


def _dask_settings(config: ClusterConfig) -> dict[str, Any]:
    """How dask behaves for tasks that take minutes to hours."""
    return {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.scheduler.worker-ttl": f"{config.worker_patience:.0f}s",
        # Results are a few numbers: spilling and pausing would only hide a scene that is too large for its worker.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        # A log per scene of what the scheduler did would grow with the run.
        "distributed.admin.log-length": 100,
        "distributed.admin.low-level-log-length": 100,
        "distributed.admin.system-monitor.log-length": 100,
        "distributed.diagnostics.computations.max-history": 1,
    }


def _memory_limit(config: ClusterConfig) -> int:
    from dask.utils import parse_bytes
    from distributed.system import MEMORY_LIMIT

    if config.worker_memory == "auto":
        return MEMORY_LIMIT // config.workers
    try:
        return int(parse_bytes(config.worker_memory))
    except ValueError:
        raise ConfigError(f"worker_memory: '{config.worker_memory}' is not a size; write for example 8GiB") from None


def worker_environment(index: int, workers: int, device: str) -> dict[str, str]:
    """Environment of local worker `index`: its share of the cores, one GPU of its own.

    Math libraries keep to one thread so that a product's rounding does not depend on the number of workers; our own
    kernels and zarr's compression give the same bytes with any number of threads and take the worker's share of the
    cores, or what NUMBA_NUM_THREADS says.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    threads = os.environ.get("NUMBA_NUM_THREADS") or str(max(1, cores // workers))
    environment["NUMBA_NUM_THREADS"] = environment["ZARR_THREADING__MAX_WORKERS"] = threads
    if device == "auto" or device.startswith("cuda"):
        gpus = visible_gpus()
        if not gpus and device == "auto":
            return environment
        if not gpus:
            raise ConfigError("device cuda: no CUDA device is visible; set device=cpu or load the driver")
        environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
    return environment


def visible_gpus() -> list[str]:
    """Names (indices or UUIDs) of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES lists them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip()]
    if not any(Path(driver).exists() for driver in ("/dev/nvidiactl", "/dev/dxg")):
        return []
    return [str(index) for index in range(in_child(_cuda_devices))]


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()
