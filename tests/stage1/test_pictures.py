"""Photographs as the teachers' input."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chorus_common.cache import SceneCache
from chorus_common.camera_io import write_transforms_json
from chorus_common.lifting import CellGrid, CellHits
from chorus_common.manifest import Manifest, ManifestRow
from stage1_render_teachers.pictures import cell_weights, scaled_hits
from stage1_render_teachers.run import RunSummary, run_stage1
from stage1_render_teachers.settings import RunConfig, Stage1Config
from tests.stage1.small_rooms import CONFIG, ring_of_cameras, write_rooms

PHOTOS = CONFIG.model_copy(update={"pictures": "photos"})


def run(rows: list[ManifestRow], store: Path, config: Stage1Config) -> RunSummary:
    return run_stage1(rows, store, config, RunConfig())


@pytest.fixture
def room(tmp_path: Path) -> tuple[ManifestRow, Path, SceneCache]:
    """A scene whose cameras have the size of the pictures, the folder of its photographs, which ARE the renders, and
    the cache of the renders."""
    (row,) = Manifest.read(write_rooms(tmp_path / "rooms", 1))
    assert row.cameras_path is not None
    cameras = ring_of_cameras(5).filled(64, 48)
    write_transforms_json(cameras, row.cameras_path)
    assert run([row], tmp_path / "renders", CONFIG).counts == {"done": 1}
    cache = SceneCache.open(tmp_path / "renders" / "tiny" / "scene00.zarr")
    folder = row.cameras_path.parent / "images"
    folder.mkdir()
    for name, picture in zip(cache.cameras().names, cache.rgb()):
        Image.fromarray(picture).save(folder / f"{name}.png")
    return row, folder, cache


def photo_cache(row: ManifestRow, store: Path, config: Stage1Config = PHOTOS) -> SceneCache:
    summary = run([row], store, config)
    assert summary.counts == {"done": 1}, summary.failures
    return SceneCache.open(store / "tiny" / "scene00.zarr", check="full")


def test_photographs_that_are_the_renders_give_the_same_bytes(
    room: tuple[ManifestRow, Path, SceneCache], tmp_path: Path
) -> None:
    row, _, rendered = room
    cache = photo_cache(row, tmp_path / "photos")
    assert cache.fingerprint != rendered.fingerprint
    for name in rendered.arrays:
        first, second = (
            {f.relative_to(c.path): f.read_bytes() for f in (Path(str(c.path)) / name).rglob("*") if f.is_file()}
            for c in (rendered, cache)
        )
        assert first == second, name
    kept = [
        store / "standardisers" / "embedded-dense.safetensors" for store in (tmp_path / "renders", tmp_path / "photos")
    ]
    assert kept[0].read_bytes() == kept[1].read_bytes()


def test_teachers_see_the_photographs_and_the_index_is_the_gaussians(
    room: tuple[ManifestRow, Path, SceneCache], tmp_path: Path
) -> None:
    row, folder, rendered = room
    for path in folder.iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    cache = photo_cache(row, tmp_path / "photos")
    np.testing.assert_array_equal(cache.rgb(), 255 - rendered.rgb())
    np.testing.assert_array_equal(cache.lifting().weights, rendered.lifting().weights)
    assert not np.array_equal(cache.codes("embedded-dense"), rendered.codes("embedded-dense"))


def test_missing_and_damaged_photographs_are_left_out_and_counted(
    room: tuple[ManifestRow, Path, SceneCache], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row, folder, _ = room
    (folder / "v1.png").unlink()
    (folder / "v3.png").write_bytes((folder / "v3.png").read_bytes()[:300])
    cache = photo_cache(row, tmp_path / "photos")
    assert cache.cameras().names == ("v0", "v2", "v4")
    said = capsys.readouterr().err
    assert "1 of 5 views have no photograph (first: v1)" in said
    assert "1 of 4 photographs are left out" in said
    assert "v3.png: the picture is damaged" in said
    for name in ("v0", "v2", "v4"):
        (folder / f"{name}.png").write_bytes(b"no picture")
    shutil.copytree(tmp_path / "renders" / "standardisers", tmp_path / "none" / "standardisers")
    summary = run([row], tmp_path / "none", PHOTOS)
    assert summary.counts == {"failed": 1}
    (line,) = summary.failures.values()
    assert "4 of 4 photographs are left out" in line


def test_a_view_list_is_honoured(room: tuple[ManifestRow, Path, SceneCache], tmp_path: Path) -> None:
    row, folder, _ = room
    (folder.parent / "lang_feat_selected_imgs.json").write_text('{"frames_list": ["v4.jpg", "v0.jpg"]}')
    assert photo_cache(row, tmp_path / "photos").cameras().names == ("v0", "v4")
    assert photo_cache(row, tmp_path / "renders-again", CONFIG).cameras().names == ("v0", "v4")
    everything = PHOTOS.model_copy(update={"view_list": ""})
    assert len(photo_cache(row, tmp_path / "all", everything).cameras()) == 5


def test_photographs_count_in_what_is_done(room: tuple[ManifestRow, Path, SceneCache], tmp_path: Path) -> None:
    row, folder, _ = room
    photo_cache(row, tmp_path / "photos")
    assert run([row], tmp_path / "photos", PHOTOS).counts == {"skipped": 1}
    with open(folder / "v2.png", "ab") as handle:
        handle.write(b"\0")
    summary = run([row], tmp_path / "photos", PHOTOS)
    assert "was published with other settings, teachers or input files" in summary.failures["tiny/scene00"]
    bare = replace(row, cameras_path=None)
    summary = run([bare], tmp_path / "bare", CONFIG.model_copy(update={"teachers": ("embedded:masks",)}))
    assert summary.counts == {"done": 1}
    summary = run([bare], tmp_path / "bare2", PHOTOS.model_copy(update={"teachers": ("embedded:masks",)}))
    assert "brings no cameras; photographs need poses" in summary.failures["tiny/scene00"]


def test_what_was_moved_weighs_less(room: tuple[ManifestRow, Path, SceneCache], tmp_path: Path) -> None:
    row, folder, _ = room
    picture = np.asarray(Image.open(folder / "v2.png")).copy()
    picture[16:24, 24:32] = 255 - picture[16:24, 24:32]  # the cell of row 2, column 3
    Image.fromarray(picture).save(folder / "v2.png")
    config = PHOTOS.model_copy(update={"photo_agreement": 0.1, "interpolation": "nearest"})
    cache = photo_cache(row, tmp_path / "photos", config)
    plain = photo_cache(row, tmp_path / "plain", PHOTOS.model_copy(update={"interpolation": "nearest"}))
    sums = [np.bincount(c.lifting().columns, c.lifting().weights, c.lifting().n_columns) for c in (cache, plain)]
    share = (sums[0] / np.maximum(sums[1], 1e-9)).reshape(5, 6, 8)
    seen = sums[1].reshape(5, 6, 8) > 1
    moved = np.zeros_like(seen)
    moved[2, 2, 3] = True
    assert share[seen & ~moved].min() > 0.9
    assert (share[seen & moved] < 0.6).all()


GRID = CellGrid(20, 14, 6)


def slow_weights(photo: np.ndarray, rendered: np.ndarray, known: np.ndarray, tau: float) -> np.ndarray:
    """The rule, cell by cell."""
    a, b = photo / 255, rendered / 255
    gain = np.ones(3)
    for c in range(3):
        lit = known & (b[..., c] > 0.02)
        if lit.any():
            gain[c] = np.clip(np.median(a[lit][:, c] / b[lit][:, c]), 0.25, 4)
    out = []
    for row in range(GRID.rows):
        for col in range(GRID.cols):
            part = np.s_[row * 6 : row * 6 + 6, col * 6 : col * 6 + 6]
            share = known[part].mean()
            weight = share
            if tau and share:
                weight *= np.exp(-np.abs(a[part] / gain - b[part]).mean(2)[known[part]].mean() / tau)
            out.append(weight)
    return np.array(out)


@given(seed=st.integers(0, 1000), tau=st.sampled_from([0.0, 0.05, 0.3]), hole=st.integers(0, 14))
@settings(max_examples=40, deadline=None)
def test_weights_follow_the_stated_rule(seed: int, tau: float, hole: int) -> None:
    rng = np.random.default_rng(seed)
    rendered = rng.integers(0, 256, (14, 20, 3), dtype=np.uint8)
    photo = np.clip(rendered * 0.7 + rng.normal(0, 20, rendered.shape), 0, 255).astype(np.uint8)
    known = np.ones((14, 20), bool)
    known[:hole, :9] = False
    found = cell_weights(photo, rendered, known, GRID, tau)
    np.testing.assert_allclose(found, slow_weights(photo, rendered, known, tau), atol=2e-5)
    assert (found <= 1 + 1e-6).all()


def test_exposure_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    rendered = rng.integers(40, 200, (14, 20, 3), dtype=np.uint8)
    darker = np.rint(rendered * np.array([0.5, 0.6, 0.7])).astype(np.uint8)
    found = cell_weights(darker, rendered, np.ones((14, 20), bool), GRID, 0.1)
    assert found.min() > 0.95
    assert cell_weights(rendered, rendered, np.ones((14, 20), bool), GRID, 0.1).min() > 0.999


def test_hits_of_a_worthless_cell_are_left_out() -> None:
    hits = CellHits(np.array([0, 0, 2], np.int32), np.array([1, 4, 4], np.int32), np.array([1, 2, 3], np.float32))
    found = scaled_hits(hits, np.array([0.5, 1, 0], np.float32))
    assert found.cells.tolist() == [0, 0]
    assert found.weights.tolist() == [0.5, 1.0]
    assert scaled_hits(hits, np.ones(3, np.float32)) is hits
