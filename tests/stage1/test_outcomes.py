"""The outcome log: nothing is lost, files stay small, the last word on a scene wins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chorus_common.runtime.errors import CacheError
from stage1_render_teachers import outcomes
from stage1_render_teachers.outcomes import OutcomeLog, SceneOutcome, read_outcomes

FULL = SceneOutcome(
    "rooms", "a", "done", seconds={"render": 1.5, "total": 2.0}, bytes=10, n_gaussians=5, n_views=3, coverage=0.75,
    peak_memory=99, errors={"embedded-dense": {"token_cosine": 0.995}}, finished=5.0,
)  # fmt: skip


def test_outcomes_come_back_as_they_were(tmp_path: Path) -> None:
    failed = SceneOutcome("rooms", "b", "failed", error="scene b: holds no Gaussians", finished=6.0)
    with OutcomeLog(tmp_path) as log:
        log.add(FULL)
        log.add(failed)
    assert read_outcomes(tmp_path) == {"rooms/a": FULL, "rooms/b": failed}


def test_an_interrupted_run_keeps_its_outcomes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), OutcomeLog(tmp_path, every=1e6) as log:
        log.add(FULL)
        raise KeyboardInterrupt
    assert read_outcomes(tmp_path) == {"rooms/a": FULL}


def test_the_last_word_wins_but_skipping_says_nothing_new(tmp_path: Path) -> None:
    history = [
        ("x", "failed", 1.0), ("x", "done", 2.0), ("x", "skipped", 3.0),  # done stands: it knows seconds and bytes
        ("y", "failed", 1.0), ("y", "skipped", 2.0),  # someone else published it in between
        ("z", "done", 1.0), ("z", "failed", 2.0),
    ]  # fmt: skip
    for scene, status, finished in history:  # one run each
        with OutcomeLog(tmp_path) as log:
            log.add(SceneOutcome("rooms", scene, status, finished=finished))  # type: ignore[arg-type]
    latest = read_outcomes(tmp_path)
    assert {key: value.status for key, value in latest.items()} == {
        "rooms/x": "done", "rooms/y": "skipped", "rooms/z": "failed",
    }  # fmt: skip


def test_long_runs_are_cut_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "ROWS_PER_FILE", 10)
    with OutcomeLog(tmp_path, every=0) as log:
        for i in range(35):
            log.add(SceneOutcome("rooms", f"s{i}", "done", finished=float(i)))
    assert len(list((tmp_path / "outcomes").iterdir())) == 4
    assert len(read_outcomes(tmp_path)) == 35


def test_unfinished_files_are_not_read_and_damaged_ones_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "outcomes"
    folder.mkdir()
    (folder / ".tmp-1-x.parquet").write_bytes(b"PAR1 half a file")
    assert read_outcomes(tmp_path) == {}
    (folder / "x.parquet").write_bytes(b"PAR1 half a file")
    with pytest.raises(CacheError, match=r"x\.parquet: not a readable outcome file"):
        read_outcomes(tmp_path)


def test_a_store_without_runs_has_no_outcomes(tmp_path: Path) -> None:
    assert read_outcomes(tmp_path) == {}


_COUNT_THREADS = """
import sys
from pathlib import Path

import pyarrow.parquet
from stage1_render_teachers.outcomes import read_outcomes

def threads():
    names = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    return len([name for name in names if not name.startswith("jemalloc")])

before = threads()
assert read_outcomes(Path(sys.argv[1]))
print(threads() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_reading_leaves_no_thread_that_could_outlive_the_interpreter(tmp_path: Path) -> None:
    """Arrow's threads hold Python objects; one that is alive while the interpreter ends aborts the program."""
    with OutcomeLog(tmp_path) as log:
        log.add(FULL)
    found = subprocess.run([sys.executable, "-c", _COUNT_THREADS, str(tmp_path)], capture_output=True, text=True)
    assert (found.stdout, found.returncode) == ("0\n", 0), found.stderr
