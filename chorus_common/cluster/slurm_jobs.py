"""Workers as Slurm jobs, one job per worker, by dask-jobqueue (the extra `slurm`)."""

from __future__ import annotations

import re
import shutil
from typing import Any

from pydantic import Field, field_validator

from chorus_common.runtime.config import Config
from chorus_common.runtime.errors import ConfigError


class SlurmConfig(Config):
    """What Slurm is asked for, per worker; a TOML file of its own (`--slurm FILE`)."""

    partition: str = Field(default="", description='"" = the default one')
    account: str = Field(default="", description='"" = the default one')
    walltime: str = Field(default="04:00:00", pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$", description="[days-]HH:MM:SS")
    cpus: int = Field(default=4, ge=1, description="cores; our kernels use all of them, teachers `teacher_threads`")
    memory: str = Field(
        default="32GB",
        description='of the job, and the limit at which its worker is restarted; "" or "0" = as the cluster gives it '
        "(for clusters that refuse --mem), without a limit",
    )
    gpus: int = Field(default=0, ge=0, le=1, description="1: one GPU per worker")
    interface: str = Field(default="", description='network interface of the inner network, for example "ib0"')
    directives: tuple[str, ...] = Field(default=(), description='more lines for sbatch, as "--constraint=a100"')
    prologue: tuple[str, ...] = Field(default=(), description='shell lines before the worker, as "module load cuda"')
    log_directory: str = Field(default="slurm-logs", description="of the jobs' output")

    @field_validator("memory")
    @classmethod
    def _size(cls, text: str) -> str:
        plain = text.strip()
        if plain not in ("", "0") and not re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]i?B?", plain, re.IGNORECASE):
            raise ValueError('no size of memory; write for example "32GB" or "500MiB", or "" for none')
        return "" if plain == "0" else plain

    @property
    def walltime_seconds(self) -> int:
        days, _, clock = self.walltime.rpartition("-")
        hours, minutes, seconds = map(int, clock.split(":"))
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def slurm_cluster(config: SlurmConfig, scheduler: dict[str, Any]) -> Any:
    """A dask cluster without workers yet; `scheduler`: options of its scheduler. Raises ConfigError.

    A worker leaves in good order five minutes before its job's time is up (a tenth of it for short jobs), spread over
    as long again so that not all leave at once: a job that Slurm ends looks like a crash and costs its scene a try.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError("--scheduler slurm: there is no sbatch on this machine; run it on a login or batch node")
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise ConfigError("--scheduler slurm: needs dask-jobqueue; pip install 'chorus3d[slurm]'") from None
    margin = min(300, config.walltime_seconds // 10)
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    directives = [f"--gres=gpu:{config.gpus}"] if config.gpus else []
    return SLURMCluster(
        queue=config.partition or None,
        account=config.account or None,
        walltime=config.walltime,
        cores=1,  # threads of the worker: one scene at a time
        processes=1,
        job_cpu=config.cpus,
        memory=config.memory or "0",  # of a worker: no limit
        job_mem=None if config.memory else "0",
        job_directives_skip=[] if config.memory else ["--mem="],
        interface=config.interface or None,
        job_extra_directives=[*directives, *config.directives],
        job_script_prologue=[
            *(f"export {name}=1" for name in threads), f"export NUMBA_NUM_THREADS={config.cpus}", *config.prologue,
        ],
        worker_extra_args=[
            "--lifetime", f"{config.walltime_seconds - 2 * margin}s", "--lifetime-stagger", f"{margin}s",
        ],
        death_timeout=300,
        log_directory=config.log_directory,
        scheduler_options={"dashboard_address": ":0", **scheduler},
    )  # fmt: skip
