"""A scheduler that is killed ends its client with one line; the same command goes on with the next scheduler."""

from __future__ import annotations

import time
from pathlib import Path

from tests.chaos.cluster_under_fire import ClusterUnderFire
from tests.chaos.test_chaos_kills import SETTINGS
from tests.stage1.small_rooms import write_rooms


def test_a_killed_scheduler_costs_one_line(tmp_path: Path) -> None:
    manifest = write_rooms(tmp_path / "rooms", 6)
    cluster = ClusterUnderFire(tmp_path / "run", manifest, tmp_path / "store", SETTINGS, workers=1)
    try:
        deadline = time.monotonic() + 240
        while not cluster.at_work() and time.monotonic() < deadline:
            assert cluster.heal() is None, "the run was over before anything could be killed"
            time.sleep(0.02)
        cluster.shoot_scheduler()
        while not cluster.errors and time.monotonic() < deadline:
            assert cluster.heal() is None
            time.sleep(0.02)
        cluster.end_workers()
        while (code := cluster.heal()) is None and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        cluster.close()
    assert code == 0
    first = cluster.errors[0].decode().splitlines()
    said = [line for line in first if not line.startswith(("stage 1: ", "calibration: "))]
    assert said == ["error: the dask scheduler is gone; start it and run the same command again to go on"]
