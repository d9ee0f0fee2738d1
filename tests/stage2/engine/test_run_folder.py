"""A run's log on a full disk: records are lost whole, once there is room it goes on, and the run is never ended."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from stage2_distill.engine.logs import RunLog
from stage2_distill.engine.run_folder import RunFolder
from tests.stage2.train_child import run_tiny


class SmallDisk:
    """A log file on a disk with room for so many bytes; a write takes what fits before the next one fails."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = self.file.write(data[: self.room])
        self.room -= done
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def full_board(*_: object, **__: object) -> None:
    raise OSError(errno.EDQUOT, "Disk quota exceeded")


def test_a_record_that_does_not_fit_leaves_no_half_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(RunFolder(tmp_path), 0)
    log.write("step", 0, {"loss": 1.5})
    size = (tmp_path / "log.jsonl").stat().st_size
    log._file = disk = SmallDisk(log._file, size + 7)  # type: ignore[assignment]
    log.write("step", 1, {"loss": 1.5})
    log.write("step", 2, {"loss": 1.5})  # 7 bytes of it fit
    log.write("step", 3, {"loss": 1.5})
    assert (tmp_path / "log.jsonl").stat().st_size == 2 * size
    disk.room = 10**6
    log.write("step", 4, {"loss": 1.5})
    log.close()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 4]
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert warnings[0].startswith(f"warning: disk full, {tmp_path / 'log.jsonl'}")


def test_curves_end_where_the_disk_is_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(RunFolder(tmp_path), 0)
    assert log._board is not None
    log._board.add_scalar = log._board.close = full_board  # type: ignore[method-assign]
    for step in range(3):
        log.write("step", step, {"loss": 1.5})
    log.close()
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_other_errors_are_not_hidden(tmp_path: Path) -> None:
    log = RunLog(RunFolder(tmp_path), 0)
    log._file.close()
    with pytest.raises(ValueError, match="closed file"):
        log.write("step", 0, {})


def test_a_run_whose_log_does_not_fit_ends_with_its_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: RunLog, line: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run_tiny(tmp_path / "whole", "epochs=1")
    monkeypatch.setattr(RunLog, "_append", full)
    assert run_tiny(tmp_path / "full", "epochs=1").steps == 2
    whole, full_log = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "full"))
    assert whole == full_log
