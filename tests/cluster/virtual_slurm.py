"""A real Slurm on this machine: munged, slurmctld and two slurmd, each with a virtual node, all in one folder.

The daemons are those of Debian's packages: apt install slurmctld slurmd slurm-client munge. They run as the user who
starts them, listen on ports that are free, and end with the `with` block.

    python -m tests.cluster.virtual_slurm FOLDER     # keeps them running until Ctrl-C; SLURM_CONF is printed
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
NODES = ("n1", "n2")

CONFIG = """
ClusterName=chorus
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=5
InactiveLimit=0
KillWait=30
MinJobAge=3600
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_n1} CPUs=8 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_n2} CPUs=8 RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


class CannotStart(Exception):
    """Why there is no Slurm here, in one line."""


def find(program: str) -> str:
    """Path of a program; daemons lie where an ordinary PATH does not look."""
    path = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if path is None:
        raise CannotStart(f"no {program}; apt install slurmctld slurmd slurm-client munge")
    return path


@dataclass
class VirtualSlurm:
    """The running cluster. environment: what its client programs need."""

    folder: Path
    environment: dict[str, str]
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground of a session of its own."""
        log = (self.folder / f"{name}.out").open("ab")
        self._daemons[name] = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | self.environment, start_new_session=True
        )

    def start_node(self, node: str) -> None:
        """A new slurmd for the node, as after a reboot."""
        self.start(node, find("slurmd"), "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """What a power failure does: slurmd and everything that runs on the node is gone without a word.

        Returns when the controller has noticed.
        """
        for pid in [self._daemons.pop(node).pid, *self.processes_on(node)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 120
        while "down" not in self.run("sinfo", "--noheader", "--format=%t", f"--nodes={node}"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the controller does not notice that {node} is gone")
            time.sleep(0.5)

    def processes_on(self, node: str) -> list[int]:
        """Jobs' processes on the node, after the slurmstepd that hold them."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and self._is_on(entry, node):
                    found.append(int(entry.name))
                    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                    if (Path("/proc") / parent / "comm").read_text().startswith("slurmstepd"):
                        found.insert(0, int(parent))
        return list(dict.fromkeys(found))

    def _is_on(self, entry: Path, node: str) -> bool:
        variables = (entry / "environ").read_bytes().split(b"\0")
        if f"SLURM_CONF={self.environment['SLURM_CONF']}".encode() not in variables:
            return False
        return f"SLURMD_NODENAME={node}".encode() in variables

    def run(self, *command: str, **variables: str) -> str:
        """Standard output of a client program. Raises CalledProcessError with its words."""
        done = subprocess.run(
            command, env=os.environ | self.environment | variables, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def state(self, job: str) -> str:
        """RUNNING, COMPLETED, ...; of an array job all its tasks', joined by commas."""
        shown = self.run("scontrol", "show", "job", job)
        return ",".join(sorted({w.removeprefix("JobState=") for w in shown.split() if w.startswith("JobState=")}))

    def wait(self, job: str, seconds: float = 300) -> str:
        """The state in which a job ends."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = self.state(job)
            if not {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED"} & set(state.split(",")):
                return state
            time.sleep(0.5)
        raise TimeoutError(f"job {job} is {self.state(job)} after {seconds:g} s")

    def stop(self) -> None:
        for node in NODES:
            for pid in self.processes_on(node):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for daemon in self._daemons.values():
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


@contextlib.contextmanager
def virtual_slurm(folder: Path, variables: Mapping[str, str] | None = None) -> Iterator[VirtualSlurm]:
    """Two idle nodes. Raises CannotStart where the daemons are not installed or do not come up."""
    for program in PROGRAMS:
        find(program)
    ports = free_ports(3)
    for name in ("state", *(f"spool.{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o700)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(
        CONFIG.format(
            folder=folder, host=host, user=getpass.getuser(), port=ports[0], port_n1=ports[1], port_n2=ports[2]
        ).lstrip()
    )
    path = os.pathsep.join([str(Path(find("slurmd")).parent), os.environ.get("PATH", "")])
    cluster = VirtualSlurm(folder, {"SLURM_CONF": str(conf), "PATH": path, **(variables or {})})
    try:
        cluster.start(
            "munged", find("munged"), "--foreground", "--force", f"--key-file={key}",
            f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log",
            f"--seed-file={folder}/munge.seed",
        )  # fmt: skip
        cluster.start("slurmctld", find("slurmctld"), "-D", "-c")
        for node in NODES:
            cluster.start_node(node)
        wait_until_idle(cluster)
        yield cluster
    finally:
        cluster.stop()


def wait_until_idle(cluster: VirtualSlurm, seconds: float = 30) -> None:
    """Raises CannotStart where the nodes do not come up."""
    deadline = time.monotonic() + seconds
    said = ""
    while time.monotonic() < deadline:
        try:
            said = cluster.run("sinfo", "--noheader", "--format=%D %t")
        except RuntimeError as error:
            said = str(error)
        if said.split() == ["2", "idle"]:
            return
        time.sleep(0.3)
    raise CannotStart(f"the daemons did not come up: {' '.join(said.split())}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def main() -> None:
    try:
        with virtual_slurm(Path(sys.argv[1]).resolve()) as cluster:
            print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}", flush=True)
            signal.pause()
    except CannotStart as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
