"""PHI-S standardisers: right, and independent of everything but the data and the seed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chorus_common.cluster.pool import Finished, InProcess
from chorus_common.features.standardise import Moments, PhiSStandardiser, phi_s
from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.runtime.errors import CacheError
from chorus_common.runtime.progress import progress
from stage1_render_teachers.calibrate import (
    CalibrationJob,
    calibrate,
    draw_rows,
    missing_standardisers,
    save_standardiser,
    scene_moments,
)
from stage1_render_teachers.plan import describe_teachers, standardiser_path
from tests.stage1.small_rooms import CONFIG, write_rooms

SPECS = ("embedded:dense",)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[ManifestRow]:
    return list(Manifest.read(write_rooms(tmp_path_factory.mktemp("rooms"), 3)))


class Backwards:
    """A pool that finishes jobs in the opposite order."""

    def map(self, task: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Finished[Any, Any]]:
        return InProcess().map(task, list(jobs)[::-1])


def fit(rows: list[ManifestRow], store: Path, pool: Any = None, **settings: Any) -> bytes:
    config = CONFIG.model_copy(update=settings)
    with progress(1, "calibration", stream=io.StringIO()) as report:
        teachers = [teacher for teacher in describe_teachers(config, "cpu") if teacher.dense]
        (path,) = calibrate(rows, store, teachers, config, "cpu", pool or InProcess(), report)
    return path.read_bytes()


def test_the_standardiser_does_not_depend_on_order(rows: list[ManifestRow], tmp_path: Path) -> None:
    first = fit(rows, tmp_path / "a")
    assert fit(rows[::-1], tmp_path / "b") == first
    assert fit(rows, tmp_path / "c", Backwards()) == first
    assert fit(rows, tmp_path / "d", seed=1) != first


def test_the_standardiser_is_phi_s_of_the_drawn_tokens(rows: list[ManifestRow], tmp_path: Path) -> None:
    fit(rows, tmp_path)
    drawn = draw_rows(rows, CONFIG.seed)[:2]
    moments = Moments.empty(80)
    for row in drawn:
        moments = moments.merge(scene_moments(CalibrationJob(row, SPECS, CONFIG, "cpu")).moments["embedded:dense"])
    assert moments.count == 2 * 2 * 48  # scenes x views x cells
    standardiser = PhiSStandardiser.load(standardiser_path(tmp_path, "embedded-dense"))
    np.testing.assert_allclose(standardiser.mean, moments.mean)
    assert standardiser.phi == pytest.approx(phi_s(moments).phi)
    assert standardiser.spec == "embedded:dense"


def test_standardisers_that_are_there_are_not_missing(rows: list[ManifestRow], tmp_path: Path) -> None:
    teachers = describe_teachers(CONFIG, "cpu")
    assert tuple(teacher.spec for teacher in missing_standardisers(tmp_path, teachers)) == SPECS
    fit(rows, tmp_path)
    assert missing_standardisers(tmp_path, teachers) == ()


def test_tokens_can_be_thinned(rows: list[ManifestRow]) -> None:
    thin = CONFIG.model_copy(update={"calibration": CONFIG.calibration.model_copy(update={"tokens": 7})})
    assert scene_moments(CalibrationJob(rows[0], SPECS, thin, "cpu")).moments["embedded:dense"].count == 2 * 7


def test_a_standardiser_is_never_replaced_under_the_scenes_that_use_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = (phi_s(Moments.of(rng.normal(size=(50, 4))), spec="s", teacher_fingerprint="f") for _ in range(2))
    path = tmp_path / "standardisers" / "s.safetensors"
    save_standardiser(first, path, overwrite=False)
    save_standardiser(second, path, overwrite=False)  # another shard that calibrated at the same time
    assert PhiSStandardiser.load(path).fingerprint == first.fingerprint
    assert [file.name for file in path.parent.iterdir()] == ["s.safetensors"]
    save_standardiser(second, path, overwrite=True)
    assert PhiSStandardiser.load(path).fingerprint == second.fingerprint


def test_a_calibration_without_any_usable_scene_says_why(rows: list[ManifestRow], tmp_path: Path) -> None:
    from dataclasses import replace

    gone = [replace(row, scene_path=tmp_path / "gone" / row.scene_id) for row in rows]
    with pytest.raises(CacheError, match=r"none of 3 scenes can be used; the first: .*gone"):
        fit(gone, tmp_path)
