"""A thousand damaged stores, and a long walk of the cache's state machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from chorus_common.cache import SceneCache, verify_store
from tests.chorus_common.cache_example import make_example, write_example
from tests.chorus_common.test_cache_damage import DAMAGES, cache_machine, exact_or_error, snapshot

pytestmark = pytest.mark.slow
CASES = 1000


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damage") / "room_0.zarr"
    write_example(path, make_example(n=60, views=3))
    return path


def test_a_thousand_damages_are_noticed(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file at a time, all kinds of damage in turn: reading notices, and verify_store names the file."""
    rng = np.random.default_rng(1234)
    truth = snapshot(SceneCache.open(sound))
    files = sorted(p for p in sound.rglob("*") if p.is_file())
    noticed: Counter[str] = Counter()
    for case in range(CASES):
        file, damage = files[int(rng.integers(len(files)))], DAMAGES[case % len(DAMAGES)]
        before = file.read_bytes()
        damage(file, rng)
        assert not exact_or_error(sound, truth), f"{damage.__name__} of {file.relative_to(sound)} went unnoticed"
        assert verify_store(sound), f"verify missed {damage.__name__} of {file.relative_to(sound)}"
        noticed[damage.__name__] += 1
        file.write_bytes(before)
    assert exact_or_error(sound, truth)
    with capsys.disabled():
        print(f"\n{CASES} damages, all noticed: {dict(noticed)}")


def test_the_state_machine_for_long(sound: Path) -> None:
    run_state_machine_as_test(
        cache_machine(sound),
        settings=settings(
            max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
