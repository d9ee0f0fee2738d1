"""The one place where programs end: exit codes, lines, and what happens to a program's own processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

PARENT = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test runner in the background may have it ignored
from chorus_common.runtime.errors import run_cli
def work():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        print(child.pid, flush=True)
        child.wait()
    finally:
        child.terminate()
        child.wait()
run_cli(work)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_program_and_its_own_processes(number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(number)
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == 130
    assert said == "interrupted; run the same command again to go on\n"
    deadline = time.monotonic() + 30
    while True:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline, "the child lives on"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        ("ChorusError('scene a: is\\n no scene; leave it out')", 2, "error: scene a: is no scene; leave it out\n"),
        ("FileNotFoundError(2, 'No such file or directory', 'a.ply')", 2, "error: a.ply: No such file or directory\n"),
        ("OSError(28, 'No space left', 'a.zarr')", 2, "error: disk full while writing a.zarr; "),
        ("KeyboardInterrupt()", 130, "interrupted; "),
    ],
)
def test_what_a_command_raises_becomes_one_line(raised: str, code: int, said: str) -> None:
    program = f"from chorus_common.runtime.errors import *\ndef work():\n    raise {raised}\nrun_cli(work)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_the_end_of_a_file_is_not_taken_for_an_interruption() -> None:
    """click makes Abort of EOFError, as of Ctrl-D at a prompt."""
    program = (
        "import click\nfrom chorus_common.runtime.errors import *\n@click.command()\ndef work():\n"
        "    raise EOFError('No data left in file')\nrun_cli(work)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "interrupted" not in done.stderr
    assert done.stderr.endswith("EOFError: No data left in file\n")
