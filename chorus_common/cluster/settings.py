"""Where independent jobs run. Never changes a byte of what they make."""

from __future__ import annotations

from pydantic import Field

from chorus_common.cluster.slurm_jobs import SlurmConfig
from chorus_common.runtime.config import Config


class ClusterConfig(Config):
    """Workers, and what is asked of them."""

    workers: int = Field(default=0, ge=0, description="processes on this machine; 0 = in this process")
    scheduler: str = Field(default="local", description='"local", "slurm", or the scheduler file of a dask cluster')
    slurm: SlurmConfig = Field(default_factory=SlurmConfig, description="what each job asks for, with slurm")
    device: str = Field(default="cpu", description='where neural networks run: "auto", "cpu", "cuda"')
    worker_patience: float = Field(default=7200.0, gt=0, description="seconds of silence until a worker is replaced")
    worker_memory: str = Field(default="auto", description='limit per local worker, e.g. "8GiB"; "0" = none')

    @property
    def works_here(self) -> bool:
        """Whether jobs are done in this process, without workers."""
        return self.scheduler == "local" and self.workers == 0
