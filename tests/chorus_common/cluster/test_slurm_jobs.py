"""Slurm jobs as workers, against programs that stand in for sbatch and scancel."""

from __future__ import annotations

import os
import re
import signal
import stat
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from chorus_common.cluster.pool import open_pool
from chorus_common.cluster.settings import ClusterConfig
from chorus_common.cluster.slurm_jobs import SlurmConfig, slurm_cluster
from chorus_common.runtime.errors import ConfigError
from stage1_render_teachers.cli import cli
from tests.chorus_common.cluster import jobs_for_workers as jobs

#: Runs the job here; its number is that of a process group, which scancel ends.
SBATCH = """#!/bin/sh
cp "$1" "$FAKE_SLURM/$$.sh"
setsid sh "$FAKE_SLURM/$$.sh" > "$FAKE_SLURM/$$.log" 2>&1 < /dev/null &
echo $! >> "$FAKE_SLURM/jobs"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
for job in "$@"; do kill -TERM -- "-$job" 2> /dev/null; done
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the stand-ins on the PATH; the scripts of submitted jobs are kept in it."""
    pytest.importorskip("dask_jobqueue")
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        program = tmp_path / name
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    return tmp_path


def test_the_job_asks_for_what_the_config_says(slurm: Path) -> None:
    config = SlurmConfig(
        partition="gpu", account="lab", walltime="1-02:00:00", cpus=6, memory="48GB", gpus=1,
        directives=("--constraint=a100",), prologue=("module load cuda",), log_directory=str(slurm / "logs"),
    )  # fmt: skip
    with slurm_cluster(config, {"host": "127.0.0.1"}) as cluster:
        script = cluster.job_script()
    for line in (
        "#SBATCH -p gpu", "#SBATCH -A lab", "#SBATCH -t 1-02:00:00", "#SBATCH --cpus-per-task=6", "#SBATCH --mem=45G",
        "#SBATCH --gres=gpu:1", "#SBATCH --constraint=a100", "module load cuda", "export OMP_NUM_THREADS=1",
        "export NUMBA_NUM_THREADS=6",
    ):  # fmt: skip
        assert line in script.splitlines()
    assert "--nthreads 1" in script
    assert f"--lifetime {26 * 3600 - 600}s" in script
    assert config.walltime_seconds == 26 * 3600


@pytest.mark.parametrize("memory", ["", "0", " 0 "])
def test_clusters_that_refuse_mem_get_no_such_line(slurm: Path, memory: str) -> None:
    with slurm_cluster(SlurmConfig(memory=memory, log_directory=str(slurm / "logs")), {"host": "127.0.0.1"}) as cluster:
        script = cluster.job_script()
    assert "--mem=" not in script
    assert "#SBATCH --cpus-per-task=4" in script.splitlines()
    assert "--memory-limit 0" in script, "no limit for the worker either"


@pytest.mark.parametrize("memory", ["4 gigs", "lots", "-3GB", "GB", "12", "1e3GB"])
def test_a_memory_that_is_no_size_is_one_line(tmp_path: Path, memory: str) -> None:
    (tmp_path / "slurm.toml").write_text(f'memory = "{memory}"\n')
    arguments = ["run", "--manifest", "m", "--store", "s", "--scheduler", "slurm", "--slurm"]
    result = CliRunner().invoke(cli, [*arguments, str(tmp_path / "slurm.toml")], standalone_mode=False)
    assert isinstance(result.exception, ConfigError)  # run_cli ends with 2
    assert re.fullmatch(r".*slurm\.toml: 'memory': .*no size of memory.*", str(result.exception))


@pytest.mark.parametrize("memory", ["500MiB", "32GB", "1.5 TB", "8g"])
def test_sizes_of_memory(memory: str) -> None:
    assert SlurmConfig(memory=memory).memory == memory


def test_without_slurm_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="no sbatch on this machine"), open_pool(ClusterConfig(scheduler="slurm")):
        pass


def test_a_gpu_must_be_asked_for(slurm: Path) -> None:
    with pytest.raises(ConfigError, match="gpus = 1"), open_pool(ClusterConfig(scheduler="slurm", device="cuda")):
        pass


@pytest.mark.slow
def test_jobs_run_on_slurm_workers_and_are_cancelled_afterwards(slurm: Path) -> None:
    config = ClusterConfig(
        scheduler="slurm", workers=2,
        slurm=SlurmConfig(memory="2GB", cpus=1, interface="lo", log_directory=str(slurm / "logs")),
    )  # fmt: skip
    with open_pool(config) as pool:
        assert sorted(done.result for done in pool.map(jobs.double, range(20))) == [2 * i for i in range(20)]
        marks = slurm / "marks"
        marks.mkdir()
        results = [done.result for done in pool.map(jobs.die_once, [(i, str(marks)) for i in range(6)])]
        assert sorted(map(int, results)) == list(range(6))
        # preempted: the whole job is gone, with the keeper of its worker; another one is submitted
        first = int((slurm / "jobs").read_text().split()[0])
        os.killpg(first, signal.SIGKILL)
        deadline = time.monotonic() + 240
        while len((slurm / "jobs").read_text().split()) < 3 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert len((slurm / "jobs").read_text().split()) == 3
        assert sorted(done.result for done in pool.map(jobs.double, range(20))) == [2 * i for i in range(20)]
    for job in map(int, (slurm / "jobs").read_text().split()):
        deadline = time.monotonic() + 60
        while (alive := group_lives(job)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not alive, "a job runs on after the run"


def group_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True
