"""A store gives back what was put in, has the same bytes for the same content, and refuses what is incomplete."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from chorus_common.cache import SceneCache, SceneCacheWriter, SceneHeader, cache_fingerprint, schema, verify_store
from chorus_common.cache.files import FolderFiles
from chorus_common.cache.prune import prune_index
from chorus_common.cache.store import FILES, dump_records, load_records, record_file
from chorus_common.cache.streams import DenseTeacherWriter, MaskTeacherWriter
from chorus_common.features.quantise import Quantiser
from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import CacheError
from tests.chorus_common.cache_example import Example, fill, header, make_example, write_example


@pytest.fixture(scope="module")
def example() -> Example:
    return make_example()


@pytest.fixture(scope="module")
def store(example: Example, tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("store") / "room_0.zarr"
    assert write_example(path, example)
    return path


def tree_hash(root: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def test_scene_is_the_source_permuted(example: Example, store: Path) -> None:
    expected = example.scene.select(example.index.order)
    found = SceneCache.open(store, check="full").scene()
    columns = (*schema.REQUIRED_COLUMNS, *schema.OPTIONAL_COLUMNS, "source_ids")
    for key in (*columns, "name", "label_space", "render_mode"):
        if getattr(expected, key) is None:
            assert getattr(found, key) is None
        else:
            np.testing.assert_array_equal(getattr(found, key), getattr(expected, key), err_msg=key)


def test_source_ids_equal_to_the_order_are_not_stored_twice(tmp_path: Path) -> None:
    example = make_example(source_ids=False)
    write_example(tmp_path / "room_0.zarr", example)
    cache = SceneCache.open(tmp_path / "room_0.zarr")
    assert "gaussians/source_ids" not in cache.arrays
    np.testing.assert_array_equal(cache.scene().source_ids, example.index.order)


def test_cameras_visibility_pictures_and_masks(example: Example, store: Path) -> None:
    cache = SceneCache.open(store)
    cameras = cache.cameras()
    np.testing.assert_array_equal(cameras.viewmats, example.cameras.viewmats)
    np.testing.assert_array_equal(cameras.intrinsics, example.cameras.intrinsics)
    assert (cameras.names, cameras.width, cameras.height) == (example.cameras.names, 40, 24)
    for found, expected in zip(cache.visibility(), example.index.visibility()):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(cache.rgb([4, 0, 1]), example.rgb[[4, 0, 1]])
    np.testing.assert_array_equal(cache.depth(slice(1, 3)), example.depth[1:3].astype(np.float16))
    for level, ids in zip(("part", "whole"), example.masks):
        np.testing.assert_array_equal(cache.masks("sam", level), ids)
    offsets, embeddings = cache.mask_embeddings("sam", "whole")
    assert offsets[-1] == len(embeddings) == 30
    assert cache.attributes.coverage == pytest.approx(np.mean(example.index.visibility()[0] > 0), abs=1e-6)


def test_features_are_the_quantisers_and_their_error_is_recorded(example: Example, store: Path) -> None:
    cache = SceneCache.open(store)
    assert list(cache.dense_teachers) == ["clip", "dino"]
    for name, attributes in cache.dense_teachers.items():
        exact = example.features[name]
        quantiser = Quantiser(attributes.bits)
        np.testing.assert_array_equal(cache.codes(name), quantiser.encode(exact))
        found = cache.features(name)
        np.testing.assert_array_equal(found, quantiser.decode(quantiser.encode(exact), exact.shape[-1]))
        norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(exact, axis=-1)
        cosines = (found * exact).sum(-1) / norms
        assert attributes.token_cosine_mean == pytest.approx(cosines.mean(), abs=1e-5)
        assert attributes.token_cosine_p01 == pytest.approx(np.percentile(cosines, 1), abs=1e-5)
        for views in ([0], [3, 1], np.array([0, 1, 4]), slice(None, None, 2), []):
            np.testing.assert_array_equal(cache.features(name, views), found[views])


def test_append_returns_what_a_reader_gets(example: Example, store: Path, tmp_path: Path) -> None:
    with SceneCacheWriter(tmp_path / "room_0.zarr", header()) as writer:
        writer.put_cameras(example.cameras)
        teacher = writer.add_dense_teacher("clip", spec="", fingerprint="", channels=24, standardiser="", bits=4)
        found = teacher.append(example.features["clip"])
    np.testing.assert_array_equal(found, SceneCache.open(store).features("clip"))


def test_lifting_is_the_slim_index_and_any_part_of_it(example: Example, store: Path) -> None:
    cache = SceneCache.open(store)
    pruned = prune_index(example.index)
    whole = cache.lifting()
    np.testing.assert_array_equal(whole.order, example.index.order)
    np.testing.assert_array_equal(whole.indptr, pruned.indptr)
    np.testing.assert_array_equal(whole.columns, pruned.columns)
    np.testing.assert_array_equal(whole.weights, pruned.weights.astype(np.float32))
    assert (whole.grid, whole.n_views) == (example.index.grid, 5)
    n = len(whole)
    scattered = np.array([0, 1, 7, 150, n - 1])
    for rows in (slice(10, 60), slice(0, 0), slice(n - 1, None), slice(n, n), np.array([3]), scattered):
        part = cache.lifting(rows)
        chosen = np.arange(n)[rows]
        np.testing.assert_array_equal(part.order, whole.order[chosen])
        assert len(part) == len(chosen)
        for r, row in enumerate(chosen):
            a, b = part.indptr[r : r + 2]
            c, d = whole.indptr[row : row + 2]
            np.testing.assert_array_equal(part.columns[a:b], whole.columns[c:d])
            np.testing.assert_array_equal(part.weights[a:b], whole.weights[c:d])
    with pytest.raises(ValueError, match="ascending"):
        cache.lifting(np.array([5, 3]))


def test_lifting_opens_as_the_csr_of_anndata(example: Example, store: Path) -> None:
    """The group follows anndata's sparse array specification 0.1.0, read here with plain zarr and scipy."""
    sparse = pytest.importorskip("scipy.sparse")
    group = zarr.open_group(store, path="lifting", mode="r")
    assert group.attrs["encoding-type"] == "csr_matrix"
    assert group.attrs["encoding-version"] == "0.1.0"
    parts = (group["data"][:].astype(np.float32), group["indices"][:], group["indptr"][:])
    matrix = sparse.csr_matrix(parts, shape=group.attrs["shape"])
    features = np.random.default_rng(0).normal(size=(matrix.shape[1], 3)).astype(np.float32)
    sums, _ = SceneCache.open(store).lifting().lift(features)
    np.testing.assert_allclose(sums, matrix @ features, atol=1e-3)


def test_same_content_gives_the_same_bytes(
    example: Example, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads, batch in ((1, 1), (4, 3), (2, 5)):
        monkeypatch.setenv("NUMBA_NUM_THREADS", str(threads))
        with zarr.config.set({"threading.max_workers": threads, "async.concurrency": threads}):
            write_example(tmp_path / f"{batch}" / "room_0.zarr", example, batch=batch)
        assert tree_hash(tmp_path / f"{batch}" / "room_0.zarr") == tree_hash(store)


def test_partly_used_last_shards(example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks and shards per array, none of which divide the array's length."""
    for name, value in (
        ("_ENTRIES_PER_CHUNK", 100), ("_ENTRIES_PER_SHARD", 700), ("VIEWS_PER_SHARD", 3),
    ):  # fmt: skip
        monkeypatch.setattr(schema, name, value)
    monkeypatch.setattr(schema.row_layout, "__kwdefaults__", {"chunk": 32, "shard": 128, "codec": "bitshuffle"})
    path = tmp_path / "room_0.zarr"
    write_example(path, example, batch=1)
    assert len(list((path / "lifting/indices/c").iterdir())) > 5
    cache = SceneCache.open(path, check="full")
    np.testing.assert_array_equal(cache.scene().means, example.scene.means[example.index.order])
    np.testing.assert_array_equal(cache.lifting().columns, prune_index(example.index).columns)
    np.testing.assert_array_equal(cache.lifting(slice(50, 80)).columns, cache.lifting().row_slice(50, 80).columns)
    monkeypatch.setattr("chorus_common.cache.reader._GAP_ENTRIES", 10)
    rows = np.array([0, 2, 3, 90, 91, 290])
    wanted = np.concatenate([cache.lifting(slice(r, r + 1)).columns for r in rows.tolist()])
    np.testing.assert_array_equal(cache.lifting(rows).columns, wanted)
    np.testing.assert_array_equal(cache.rgb(), example.rgb)
    assert verify_store(path) == []


def test_empty_index_and_no_teachers(tmp_path: Path) -> None:
    example = make_example(n=20)
    keep = np.zeros(0, np.int32)
    empty = replace(example.index, indptr=np.zeros(21, np.int64), columns=keep, weights=keep.astype(np.float32))
    with SceneCacheWriter(tmp_path / "room_0.zarr", header()) as writer:
        writer.put_gaussians(example.scene, empty.order)
        writer.put_cameras(example.cameras)
        writer.put_lifting(empty)
        writer.put_visibility(*empty.visibility())
        assert writer.publish()
    cache = SceneCache.open(tmp_path / "room_0.zarr", check="full")
    assert cache.attributes.coverage == 0
    assert len(cache.lifting().columns) == 0
    with pytest.raises(CacheError, match="no dense teacher 'clip'; it has none"):
        cache.features("clip")
    with pytest.raises(CacheError, match="holds no views/rgb"):
        cache.rgb()


def _read_in_child(cache: SceneCache, queue: multiprocessing.Queue) -> None:
    queue.put((cache.features("clip", [1]).sum(), cache.lifting(slice(5, 9)).columns.sum()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_reading_in_child_processes(store: Path, method: str) -> None:
    cache = SceneCache.open(store)
    expected = (cache.features("clip", [1]).sum(), cache.lifting(slice(5, 9)).columns.sum())
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    count = 2 if method == "fork" else 1
    children = [context.Process(target=_read_in_child, args=(cache, queue)) for _ in range(count)]
    for child in children:
        child.start()
    found = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert found == [expected] * len(children)
    assert pickle.loads(pickle.dumps(cache)).fingerprint == cache.fingerprint


def reseal(root: Path) -> None:
    """Record the files as they are now: what a foreign or faulty writer could have published."""
    names = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and p.name != FILES]
    (root / FILES).write_bytes(dump_records({name: record_file(FolderFiles(root), name) for name in names}))


def own(metadata: dict[str, Any]) -> dict[str, Any]:
    return metadata["attributes"]["chorus"]


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: edit(r / "zarr.json", lambda c: own(c).update(schema_version=99)), "schema version 99"),
        (lambda r: edit(r / "zarr.json", lambda c: own(c).update(n_gaussians=299)), "array"),
        (lambda r: edit(r / "zarr.json", lambda c: own(c).update(colour=1)), "attribute 'colour'"),
        (lambda r: edit(r / "zarr.json", lambda c: c["attributes"].pop("chorus")), "no attributes of ours"),
        (lambda r: edit(r / "lifting/data/zarr.json", lambda c: c.update(data_type="float32")), "data is float32"),
        (lambda r: edit(r / "lifting/data/zarr.json", lambda c: c.update(shape=[10**15])), "lifting/data"),
        (lambda r: edit(r / "views/rgb/zarr.json", lambda c: c.update(codecs=[])), "not encoded as expected"),
        (lambda r: [p.unlink() for p in (r / "views/rgb").rglob("*") if p.is_file()], "views/rgb is missing"),
        (lambda r: (r / "extra").write_text("x"), "extra is not part of the schema"),
        (lambda r: (r / "views/depth/c/0/0/0").unlink(), "views/depth/c/0/0/0 is missing"),
    ],
)  # fmt: skip
def test_stores_that_contradict_themselves_are_refused(
    example: Example, tmp_path: Path, change: Callable[..., Any], message: str
) -> None:
    path = tmp_path / "room_0.zarr"
    write_example(path, example)
    change(path)
    reseal(path)
    with pytest.raises(CacheError, match=message) as caught:
        SceneCache.open(path)
    assert "run stage 1 again" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert verify_store(path)


def test_fill_values_are_refused_even_where_the_list_of_files_agrees(example: Example, tmp_path: Path) -> None:
    """A shard whose index says that its chunks were never written, recorded as such: NaN and sentinels give it away."""
    for array in ("gaussians/means", "gaussians/labels", "lifting/data", "lifting/indices", "visibility/weight"):
        path = tmp_path / array.replace("/", "_") / "room_0.zarr"
        write_example(path, example)
        shard = next(p for p in (path / array / "c").rglob("*") if p.is_file())
        shard.write_bytes(b"")
        reseal(path)
        cache = SceneCache.open(path)
        with pytest.raises(CacheError, match=f"{array} is damaged"):
            cache.scene(), cache.lifting(), cache.visibility()
        assert [p.where for p in verify_store(path)] == [array]


def test_missing_store_and_missing_list(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no such store; run stage 1"):
        SceneCache.open(tmp_path / "nowhere.zarr")
    (tmp_path / "half.zarr").mkdir()
    with pytest.raises(CacheError, match="incomplete"):
        SceneCache.open(tmp_path / "half.zarr")
    assert len(verify_store(tmp_path / "nowhere.zarr")) == 1


def test_records_round_trip(store: Path) -> None:
    records = load_records(FolderFiles(store))
    assert set(records) == {p.relative_to(store).as_posix() for p in store.rglob("*") if p.is_file()} - {FILES}
    assert all(record_file(FolderFiles(store), name) == record for name, record in records.items())


def dense(writer: SceneCacheWriter) -> DenseTeacherWriter:
    return writer.add_dense_teacher("t", spec="", fingerprint="", channels=8, standardiser="")


def masks(writer: SceneCacheWriter, name: str) -> MaskTeacherWriter:
    return writer.add_mask_teacher(name, spec="", fingerprint="", levels=["a"], height=2, width=2)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w, e: w.put_gaussians(e.scene, e.index.order[:-1]), "not a permutation"),
        (lambda w, e: w.put_gaussians(replace(e.scene, means=e.scene.means * np.nan), e.index.order), "not finite"),
        (lambda w, e: w.put_rgb(e.rgb), "write the cameras before"),
        (lambda w, e: w.publish(), "gaussians was never written"),
        (lambda w, e: (fill(w, e), w.put_rgb(e.rgb)), "written twice"),
        (lambda w, e: (fill(w, e), masks(w, "clip")), "added twice"),
        (lambda w, e: (w.put_cameras(e.cameras), w.put_rgb(e.rgb[:3])), "3 of 5 entries"),
        (lambda w, e: (w.put_cameras(e.cameras), w.put_rgb(np.tile(e.rgb, (2, 1, 1, 1)))), "more than the 5 entries"),
        (lambda w, e: (w.put_cameras(e.cameras), w.put_rgb(e.rgb.astype(np.float32))), "must be uint8"),
        (lambda w, e: (w.put_cameras(e.cameras), w.put_rgb(iter([]))), "no pictures"),
        (lambda w, e: (w.put_cameras(e.cameras), w.put_depth(e.depth * 1e9)), "not finite in float16"),
        (lambda w, e: w.put_lifting(replace(e.index, grid=CellGrid(48, 30, 10))), "grid"),
    ],
)  # fmt: skip
def test_writer_refuses(example: Example, tmp_path: Path, spoil: Callable[..., Any], message: str) -> None:
    with pytest.raises(CacheError, match=message), SceneCacheWriter(tmp_path / "room_0.zarr", header()) as writer:
        spoil(writer, example)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: dense(w).append(np.zeros((1, 3, 5, 9))), "9 channels, expected 8"),
        (lambda w: dense(w).append(np.full((1, 3, 5, 8), np.nan)), "finite"),
        (lambda w: dense(w).append(np.zeros((1, 4, 5, 8))), "entries of shape"),
        (lambda w: masks(w, "m").append({"b": np.zeros((2, 2))}), "levels"),
        (lambda w: masks(w, "m").append({"a": np.full((2, 2), -2)}), "mask id -2"),
        (lambda w: masks(w, "m").append({"a": np.full((2, 2), 40000)}), "outside int16"),
    ],
)  # fmt: skip
def test_teachers_refuse(example: Example, tmp_path: Path, spoil: Callable[..., Any], message: str) -> None:
    with pytest.raises(CacheError, match=message), SceneCacheWriter(tmp_path / "room_0.zarr", header()) as writer:
        writer.put_cameras(example.cameras)
        spoil(writer)


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "x" * 129, ".tmp-1", "a b"])
def test_scene_ids_that_are_no_folder_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="scene_id"):
        SceneHeader(scene_id=name, fingerprint="f", grid=header().grid)


def test_fingerprint_changes_with_everything_that_changes_a_number(example: Example) -> None:
    settings = {"bits": 4, "teachers": ["a", "b"], "nested": {"y": 1, "x": 0.5}}
    base = cache_fingerprint(example.scene, example.cameras, settings)
    reordered = {"nested": {"x": 0.5, "y": 1}, "teachers": ["a", "b"], "bits": 4}
    assert base == cache_fingerprint(make_example().scene, make_example().cameras, reordered)
    moved = replace(example.scene, means=example.scene.means + np.float32(1e-6))
    others = [
        cache_fingerprint(moved, example.cameras, settings),
        cache_fingerprint(replace(example.scene, labels=None), example.cameras, settings),
        cache_fingerprint(example.scene, example.cameras.select([0, 1]), settings),
        cache_fingerprint(example.scene, example.cameras.resized(80, 48), settings),
        cache_fingerprint(example.scene, example.cameras, settings | {"bits": 3}),
        cache_fingerprint("sha of the file", example.cameras, settings),
        cache_fingerprint("sha of the file", "rule", settings),
        cache_fingerprint("sha of the file", "rule", header()),
    ]
    assert len({base, *others}) == len(others) + 1
    with pytest.raises(TypeError, match="canonical"):
        cache_fingerprint("a", "b", {"x": object()})
