"""The scene task: what it measures, what it says when it fails, and what it does not depend on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chorus_common.cache import SceneCache
from chorus_common.camera_io import read_cameras, write_transforms_json
from chorus_common.features.quantise import Quantiser
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.lifting import CellGrid, CellHits, LiftingIndex
from chorus_common.manifest import Manifest
from chorus_common.runtime.errors import CacheError, SceneError
from chorus_common.scene_check import AlignmentSettings
from stage1_render_teachers.attempt import failure_line
from stage1_render_teachers.fidelity import Fidelity, row_cosine
from stage1_render_teachers.plan import TeacherPlan, shared_teacher
from stage1_render_teachers.run import run_stage1
from stage1_render_teachers.scene_task import SceneJob, run_scene, scene_fingerprint
from stage1_render_teachers.settings import RunConfig, Stage1Config
from stage1_render_teachers.teacher_passes import view_seed
from stage1_render_teachers.teachers import DenseTeacher
from stage1_render_teachers.teachers.mask_embeddings import pool_under_masks, unit_rows
from stage1_render_teachers.teachers.prompt_density import VisibleSurface
from stage1_render_teachers.views.render_views import load_scene, own_cameras, pick_views, render_batches
from tests.stage1.small_rooms import CONFIG, write_rooms


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("task")
    run_stage1(list(Manifest.read(write_rooms(root / "rooms", 1))), root / "store", CONFIG, RunConfig())
    return root / "store"


def test_the_cache_holds_what_a_plain_pass_over_the_scene_gives(store: Path) -> None:
    """Everything once more, one view at a time, without batches, streams or passes."""
    row = next(iter(Manifest.read(store.parent / "rooms" / "manifest.parquet")))
    cache = SceneCache.open(store / "tiny" / "scene00.zarr")
    scene = load_scene(row)
    cameras = pick_views(own_cameras(row, CONFIG), scene, CONFIG)
    batches = list(render_batches(scene, cameras, CONFIG.model_copy(update={"batch": 1})))
    images = np.concatenate([batch.images for batch in batches])
    np.testing.assert_array_equal(cache.rgb(), images)
    np.testing.assert_allclose(cache.depth(), np.concatenate([b.depth for b in batches]), rtol=1e-3)

    grid = CellGrid(64, 48, 8)
    index = LiftingIndex.build([hits for batch in batches for hits in batch.hits], scene.means, grid)
    weight, n_views = index.visibility()
    np.testing.assert_array_equal(cache.visibility()[0], weight)
    np.testing.assert_array_equal(cache.visibility()[1], n_views)
    assert cache.attributes.measures["covered_by_3_views"] == pytest.approx((n_views >= 3).mean(), rel=1e-5)

    teacher = shared_teacher("embedded:dense", "cpu")
    assert isinstance(teacher, DenseTeacher)
    standardiser = PhiSStandardiser.load(store / "standardisers" / "embedded-dense.safetensors")
    exact = standardiser.forward(teacher.features(images, grid))
    stored = cache.features("embedded-dense")
    assert row_cosine(exact.reshape(-1, 80), stored.reshape(-1, 80)).mean() > 0.98
    quantiser = Quantiser(CONFIG.bits)
    np.testing.assert_array_equal(cache.codes("embedded-dense"), quantiser.encode(exact))

    masks = shared_teacher("embedded:masks", "cpu")
    for view in range(5):
        for level, ids in masks.masks_of_views(images[[view]], [0], [unasked])[0].items():  # type: ignore[union-attr]
            np.testing.assert_array_equal(cache.masks("embedded-masks", level, [view])[0], ids)


def test_the_measured_error_is_that_of_a_dense_lift() -> None:
    rng = np.random.default_rng(0)
    grid, n, channels = CellGrid(40, 30, 10), 30, 8
    hits, exact, stored = [], [], []
    for _ in range(3):
        pairs = np.sort(rng.choice(grid.cells * n, 60, replace=False))
        ids = (pairs % n).astype(np.int32)
        hits.append(CellHits((pairs // n).astype(np.int32), ids, rng.random(60).astype(np.float32)))
        exact.append(rng.normal(size=(grid.cells, channels)).astype(np.float32))
        stored.append(exact[-1] + rng.normal(0, 0.3, (grid.cells, channels)).astype(np.float32))
    fidelity = Fidelity(n, channels, sample=n, seed=0)
    for view in zip(hits, exact, stored):
        fidelity.add(*view)
    dense = np.zeros((n, 3 * grid.cells))
    for view, one in enumerate(hits):
        dense[one.gaussian_ids, view * grid.cells + one.cells] = one.weights
    seen = dense.any(axis=1)
    lifted = [dense[seen] @ np.concatenate(f).astype(np.float64) for f in (exact, stored)]
    cosine = (lifted[0] * lifted[1]).sum(1) / np.linalg.norm(lifted[0], axis=1) / np.linalg.norm(lifted[1], axis=1)
    result = fidelity.result()
    assert result["lifted_cosine"] == pytest.approx(cosine.mean(), abs=1e-6)
    assert result["lifted_cosine_p01"] == pytest.approx(np.quantile(cosine, 0.01), abs=1e-6)
    assert Fidelity(5, channels, 5, 0).result() == {}


def test_cosines_of_zero_rows_are_defined() -> None:
    rows = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(row_cosine(rows, np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 0.0]])), [1, 1, 0])


def job_of(store: Path, **changes: object) -> SceneJob:
    row = next(iter(Manifest.read(store.parent / "rooms" / "manifest.parquet")))
    teachers = (TeacherPlan("embedded:masks", "embedded-masks", False, "f"),)
    return replace(SceneJob(row, store, CONFIG, teachers), **changes)  # type: ignore[arg-type]


def test_the_fingerprint_changes_with_everything_that_changes_a_byte(store: Path, tmp_path: Path) -> None:
    job = job_of(store)
    assert job.row.cameras_path is not None
    own = read_cameras(job.row.cameras_path)
    cameras = write_transforms_json(replace(own, intrinsics=own.intrinsics * 1.01), tmp_path / "other.json")
    teacher = job.teachers[0]
    others = [
        replace(job, row=replace(job.row, sha256="1" * 64)),
        replace(job, row=replace(job.row, cameras_path=None)),
        replace(job, row=replace(job.row, cameras_path=cameras)),
        replace(job, teachers=(replace(teacher, fingerprint="g"),)),
        replace(job, teachers=(replace(teacher, standardiser="b"),)),
        *(
            replace(job, config=CONFIG.model_copy(update={key: value}))
            for key, value in {
                "width": 80, "cell": 4, "interpolation": "nearest", "bits": 3, "seed": 1, "store_rgb": False,
                "max_views": 2, "background": (1.0, 1.0, 1.0), "view_choice": "even",
                "batch": 3, "teacher_threads": 2, "n_views": 9, "alignment": AlignmentSettings(up="-y"),
            }.items()
        ),
    ]  # fmt: skip
    prints = {fingerprint_of(one) for one in (job, *others)}
    assert len(prints) == 1 + len(others)
    copied = Path(shutil.copy(job.row.cameras_path, tmp_path / "elsewhere.json"))  # views count, not where they are
    same = [
        replace(job, device="cuda"), replace(job, overwrite=True), replace(job, store=tmp_path),
        replace(job, row=replace(job.row, cameras_path=copied)),
    ]  # fmt: skip
    assert {fingerprint_of(one) for one in same} == {fingerprint_of(job)}


def test_a_worker_with_another_version_of_a_teacher_refuses(store: Path, tmp_path: Path) -> None:
    outcome = run_scene(replace(job_of(store), store=tmp_path))  # planned with fingerprint "f"
    assert outcome.status == "failed"
    assert "install the same version and weights everywhere" in outcome.error


def test_failures_are_one_line_that_names_the_scene(store: Path) -> None:
    job = job_of(store)

    def line(error: Exception) -> str:
        try:
            raise error
        except Exception as caught:
            return failure_line(job.row.scene_id, job.store, caught)

    assert line(SceneError("scene scene00: holds no Gaussians")) == "scene scene00: holds no Gaussians"
    assert line(CacheError("half a file")) == "scene scene00: half a file"
    assert line(OSError(28, "No space left on device", "x")).startswith("scene scene00: disk full under ")
    assert line(PermissionError(13, "Permission denied", "/a/b")) == "scene scene00: /a/b: Permission denied"
    assert "out of memory" in line(MemoryError())
    unforeseen = line(KeyError("two\nlines"))
    assert unforeseen.startswith("scene scene00: KeyError: ")
    assert "(at test_scene_task.py:" in unforeseen
    assert "\n" not in unforeseen


def fingerprint_of(job: SceneJob) -> str:
    return scene_fingerprint(job, own_cameras(job.row, job.config))


def test_seeds_of_views_depend_on_scene_and_view_alone() -> None:
    seeds = {view_seed(seed, scene, view) for seed in (0, 1) for scene in ("a", "b") for view in range(10)}
    assert len(seeds) == 40
    assert view_seed(0, "a", 3) == view_seed(0, "a", 3)


def test_scenes_without_cameras_get_chosen_views_and_long_captures_are_thinned(store: Path) -> None:
    job = job_of(store)
    scene = load_scene(job.row)
    own = own_cameras(job.row, CONFIG)
    thinned = pick_views(own, scene, CONFIG.model_copy(update={"max_views": 3, "view_choice": "even"}))
    assert thinned.names == ("v0", "v2", "v4")
    assert (thinned.width, thinned.height) == (64, 48)
    spread = pick_views(own, scene, CONFIG.model_copy(update={"max_views": 3}))
    assert len(set(spread.names)) == 3
    chosen = pick_views(None, scene, CONFIG.model_copy(update={"n_views": 4}))
    assert (len(chosen), chosen.width, chosen.height) == (4, 64, 48)


def unasked() -> VisibleSurface:
    raise AssertionError("this teacher looks at pixels alone")


class TextLike:
    """A text-aligned dense teacher without a network: mean colour per cell, lifted to 8 channels."""

    spec, fingerprint, channels, text_aligned = "embedded:text", "text-like", 8, True

    def features(self, images: np.ndarray, grid: CellGrid) -> np.ndarray:
        cells = images.reshape(len(images), grid.rows, grid.cell, grid.cols, grid.cell, 3).mean(axis=(2, 4)) / 255
        mix = np.random.default_rng(0).normal(size=(3, 8))
        return (cells @ mix).astype(np.float32)


def test_masks_get_the_mean_text_aligned_token_under_them(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stage1_render_teachers import teachers

    monkeypatch.setitem(teachers._BUILDERS, "embedded:text", lambda *_: TextLike())
    shared_teacher.cache_clear()
    rows = list(Manifest.read(store.parent / "rooms" / "manifest.parquet"))
    config: Stage1Config = CONFIG.model_copy(update={"teachers": ("embedded:masks", "embedded:text")})
    assert run_stage1(rows, tmp_path, config, RunConfig()).failures == {}
    shared_teacher.cache_clear()
    cache = SceneCache.open(tmp_path / "tiny" / "scene00.zarr")
    assert cache.dense_teachers["embedded-text"].text_aligned
    source = cache.mask_teachers["embedded-masks"].embedded_by
    assert source is not None
    assert (source.spec, source.fingerprint, source.form) == (TextLike.spec, TextLike.fingerprint, "pooled")
    grid = CellGrid(64, 48, 8)
    tokens = TextLike().features(cache.rgb(), grid)
    for level in ("whole", "part", "subpart"):
        offsets, values = cache.mask_embeddings("embedded-masks", level)
        for view, ids in enumerate(cache.masks("embedded-masks", level)):
            expected = unit_rows(pool_under_masks(ids, tokens[view].reshape(grid.cells, 8), grid))
            np.testing.assert_allclose(values[offsets[view] : offsets[view + 1]], expected, atol=2e-3)
