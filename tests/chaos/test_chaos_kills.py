"""Fifty random SIGKILLs of workers, keepers, client and scheduler: the same bytes in the end, and nothing twice that
was not in flight.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from chorus_common.cache import sweep_orphans, verify_store
from chorus_common.manifest import Manifest
from stage1_render_teachers.run import run_stage1
from stage1_render_teachers.settings import RunConfig
from tests.chaos.cluster_under_fire import WORKERS, ClusterUnderFire
from tests.stage1.small_rooms import CONFIG, tree_digest, write_rooms

pytestmark = pytest.mark.slow
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "50"))
SCENES = 24
PATIENCE = 1800.0
SETTINGS = [
    *(f"--teachers={spec}" for spec in CONFIG.teachers),
    *(
        f"--set={key}={value}"
        for key, value in {
            "width": 64, "height": 48, "cell": 8, "batch": 2, "store_depth": "true", "error_sample": 64,
            "calibration.scenes": 2, "calibration.views": 2,
        }.items()
    ),
]  # fmt: skip


def test_fifty_kills_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs follow each other, each over all scenes into a fresh store, until all shots have been fired."""
    manifest = write_rooms(tmp_path / "rooms", SCENES)
    calm = tmp_path / "calm"
    assert run_stage1(list(Manifest.read(manifest)), calm, CONFIG, RunConfig()).counts == {"done": SCENES}
    expected, standardisers = tree_digest(calm / "tiny"), tree_digest(calm / "standardisers")
    rng = random.Random(11)
    hit: Counter[str] = Counter()
    runs = repeated = begun = 0
    started = time.monotonic()
    while hit.total() < ROUNDS:
        runs += 1
        store = tmp_path / f"store{runs}"
        cluster = ClusterUnderFire(tmp_path / f"run{runs}", manifest, store, SETTINGS)
        try:
            deadline = time.monotonic() + PATIENCE
            while (code := cluster.heal()) is None and time.monotonic() < deadline:
                time.sleep(0.02)
                if hit.total() < ROUNDS and cluster.at_work():
                    time.sleep(rng.uniform(0, 0.4))
                    hit[cluster.shoot(rng)] += 1
            assert code == 0, f"run {runs} did not come to its end"
        finally:
            cluster.close()
        sweep_orphans(store / "tiny", older_than=time.time() + 1)
        assert tree_digest(store / "tiny") == expected, "other bytes, a scene lost, or something left behind"
        assert tree_digest(store / "standardisers") == standardisers
        tracebacks = [text.decode() for text in cluster.errors if b"Traceback" in text]
        assert not tracebacks, tracebacks[0]
        for scene, moments in cluster.starts().items():
            path = store / "tiny" / f"{scene}.zarr"
            assert verify_store(path) == []
            begun += len(moments)
            repeated += len(moments) - 1
            assert moments[-1] <= path.stat().st_ctime, f"{scene} was begun again after it had been published"
            for earlier, later in itertools.pairwise(moments):
                # between two tries something was killed; only then is a scene in flight put into other hands
                assert any(earlier <= kill <= later for kill in cluster.kills), f"{scene} was begun twice for nothing"
    assert repeated <= WORKERS * hit.total()
    with capsys.disabled():
        print(
            f"\n{hit.total()} kills {dict(hit)} in {runs} runs of {SCENES} scenes, {time.monotonic() - started:.0f} s: "
            f"{begun} scenes begun, {repeated} of them again, all bytes as in the undisturbed run"
        )
