"""Run a study's jobs: as many processes at once as told, each on one thread, until all are done or the time is up.

A job whose results exist is skipped, and every command goes on where it was killed: the same study started again
continues. Before the time is up no job is cut off; none is started after it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from chorus_common.runtime.atomic import write_text_atomically
from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED, ChorusError, ConfigError
from chorus_common.runtime.progress import progress

#: Programs of the repository as modules, so that a study runs with this interpreter whatever PATH says.
_MODULES = {
    "chorus-data": "data_manifests.cli",
    "chorus-stage1": "stage1_render_teachers.cli",
    "chorus-stage2": "stage2_distill.cli",
    "chorus-eval": "evaluation.cli",
}


@dataclass(frozen=True)
class StudyJob:
    """Commands of one process, run one after the other; `results`, written by them, say that it is done.

    needs: names of the jobs whose results it reads.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    results: tuple[Path, ...]
    needs: tuple[str, ...] = ()

    def done(self) -> bool:
        return all(path.exists() for path in self.results)


@dataclass(frozen=True)
class StudyOutcome:
    """Jobs that are done, and those that were not started for want of time."""

    done: int
    left: int

    @property
    def exit_code(self) -> int:
        """For the command line; says how to go on where jobs are left."""
        if not self.left:
            return EXIT_DONE
        click.echo(f"{self.left} jobs left when the time was up; the same command goes on", err=True)
        return EXIT_SOME_FAILED


def record_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Record in `out` what its study is made with, or refuse to mix it with something else (ConfigError).

    A setting that the record does not have belongs to a part that the study did not have yet: it is added.
    """
    path = out / "study.json"
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for key, value in settings.items():
        if key in before and before[key] != value:
            several_lines = "\n" in str(value)
            shown = "changed since" if several_lines else f"{before.get(key)}, now {value}"
            raise ConfigError(f"{out}: holds a study with other settings ({key}: {shown}); give another --out")
    write_text_atomically(path, json.dumps({**before, **settings}, indent=1) + "\n")


@dataclass
class _Running:
    """A job's process, which command of it runs, and where its output goes."""

    job: StudyJob
    command: int
    process: subprocess.Popen[bytes]


def run_jobs(jobs: Sequence[StudyJob], logs: Path, *, workers: int, minutes: float) -> StudyOutcome:
    """Run what is not done. ChorusError names the job and its log where a command fails."""
    waiting = [job for job in jobs if not job.done()]
    finished = {job.name for job in jobs if job.done()}
    logs.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * minutes
    running: list[_Running] = []
    try:
        with progress(len(jobs), "study", done=len(finished)) as reporter:
            while True:
                late = time.monotonic() > deadline
                while not late and len(running) < workers:
                    ready = next((job for job in waiting if set(job.needs) <= finished), None)
                    if ready is None:
                        break
                    waiting.remove(ready)
                    running.append(_start(ready, 0, logs))
                if not running:
                    break
                time.sleep(0.2)
                for slot in [r for r in running if r.process.poll() is not None]:
                    running.remove(slot)
                    _check(slot, logs)
                    if slot.command + 1 < len(slot.job.commands):
                        running.append(_start(slot.job, slot.command + 1, logs))
                        continue
                    if not slot.job.done():
                        raise ChorusError(f"study: {slot.job.name} left no result; see {log_path(logs, slot.job)}")
                    finished.add(slot.job.name)
                    reporter.advance(1, slot.job.name)
    finally:
        for slot in running:
            slot.process.terminate()
        for slot in running:
            slot.process.wait()
    return StudyOutcome(len(finished), len(waiting))


def log_path(logs: Path, job: StudyJob) -> Path:
    return logs / f"{job.name.replace(' ', '-')}.log"


def _start(job: StudyJob, command: int, logs: Path) -> _Running:
    program, *arguments = job.commands[command]
    line = [program, *arguments]
    if program in _MODULES:
        code = f"import sys; sys.argv[0] = {program!r}; from {_MODULES[program]} import main; main()"
        line = [sys.executable, "-c", code, *arguments]
    one_thread = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    for result in job.results:
        result.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path(logs, job), "ab") as log:
        log.write(("$ " + " ".join(job.commands[command]) + "\n").encode())
        log.flush()
        process = subprocess.Popen(line, stdout=log, stderr=log, env=os.environ | one_thread)
    return _Running(job, command, process)


def _check(slot: _Running, logs: Path) -> None:
    if slot.process.returncode == 0:
        return
    log = log_path(logs, slot.job)
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
    raise ChorusError(f"study: {slot.job.name}: {slot.job.commands[slot.command][0]} failed ({last}); see {log}")
