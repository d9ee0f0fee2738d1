"""Whatever happens to a store's files, a reader gets the exact arrays or a CacheError: never any other numbers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from chorus_common.cache import SceneCache, SceneCacheWriter, sweep_orphans, unpublish, verify_store
from chorus_common.runtime.errors import CacheError
from tests.chorus_common.cache_example import fill, header, make_example, write_example

CASES = 300


def snapshot(cache: SceneCache) -> dict[str, np.ndarray]:
    """Everything that the public reading methods return."""
    scene, index, cameras = cache.scene(), cache.lifting(), cache.cameras()
    arrays = {f"scene.{key}": value for key, value in vars(scene).items() if isinstance(value, np.ndarray)}
    arrays |= {f"index.{key}": value for key, value in vars(index).items() if isinstance(value, np.ndarray)}
    arrays |= {"views": cameras.viewmats, "k": cameras.intrinsics, "names": np.array(cameras.names)}
    arrays |= {
        "weight": cache.visibility()[0],
        "n_views": cache.visibility()[1],
        "rgb": cache.rgb(),
        "depth": cache.depth(),
    }
    for name in cache.dense_teachers:
        arrays |= {name: cache.features(name), f"{name}.codes": cache.codes(name)}
    for name, masks in cache.mask_teachers.items():
        arrays |= {f"{name}.{level}": cache.masks(name, level) for level in masks.levels}
        arrays |= {f"{name}.{level}.e": cache.mask_embeddings(name, level)[1] for level in masks.embeddings}
    return arrays


def exact_or_error(path: Path, truth: dict[str, np.ndarray]) -> bool:
    """True: everything was read and is exact. False: a CacheError of one line that names the store."""
    try:
        found = snapshot(SceneCache.open(path))
    except CacheError as error:
        message = str(error)
        if str(path) not in message or "\n" in message:
            raise AssertionError(f"unhelpful message: {message}") from error
        return False
    assert found.keys() == truth.keys()
    for key, value in truth.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)
    return True


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damage") / "room_0.zarr"
    write_example(path, make_example(n=60, views=3))
    return path


def flip_bit(file: Path, rng: np.random.Generator) -> None:
    data = bytearray(file.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)


def truncate(file: Path, rng: np.random.Generator) -> None:
    file.write_bytes(file.read_bytes()[: int(rng.integers(file.stat().st_size))])


def empty(file: Path, rng: np.random.Generator) -> None:
    file.write_bytes(b"")


def delete(file: Path, rng: np.random.Generator) -> None:
    file.unlink()


def extend(file: Path, rng: np.random.Generator) -> None:
    file.write_bytes(file.read_bytes() + rng.bytes(int(rng.integers(1, 40))))


def overwrite(file: Path, rng: np.random.Generator) -> None:
    """Random bytes of the right length: a file of another store, or a sector lost."""
    data = bytearray(file.read_bytes())
    begin = int(rng.integers(len(data)))
    end = int(rng.integers(begin, len(data))) + 1
    data[begin:end] = bytes(b ^ 255 for b in data[begin:end])
    file.write_bytes(data)


DAMAGES: tuple[Callable[[Path, np.random.Generator], None], ...] = (
    flip_bit,
    truncate,
    empty,
    delete,
    extend,
    overwrite,
)


def test_random_damage_before_opening(sound: Path) -> None:
    """Damage one file at a time, in turn with all kinds of damage: each is noticed on reading and by verify_store."""
    rng = np.random.default_rng(0)
    truth = snapshot(SceneCache.open(sound))
    files = sorted(p for p in sound.rglob("*") if p.is_file())
    for case in range(CASES):
        file, damage = files[int(rng.integers(len(files)))], DAMAGES[case % len(DAMAGES)]
        before = file.read_bytes()
        damage(file, rng)
        assert not exact_or_error(sound, truth), f"{damage.__name__} of {file.relative_to(sound)} went unnoticed"
        if case % 10 == 0:
            assert verify_store(sound), f"verify missed {damage.__name__} of {file.relative_to(sound)}"
        file.write_bytes(before)
    assert exact_or_error(sound, truth)
    assert verify_store(sound) == []


def test_random_damage_after_opening(sound: Path) -> None:
    """The store was sound when it was opened: reading still notices."""
    rng = np.random.default_rng(1)
    truth = snapshot(SceneCache.open(sound))
    data = sorted(p for p in sound.rglob("*") if p.is_file() and "/c/" in p.as_posix())
    for case in range(60):
        file, damage = data[int(rng.integers(len(data)))], DAMAGES[case % len(DAMAGES)]
        cache = SceneCache.open(sound)
        before = file.read_bytes()
        damage(file, rng)
        with pytest.raises(CacheError, match=r"room_0\.zarr"):
            snapshot(cache)
        file.write_bytes(before)
    assert exact_or_error(sound, truth)


def test_full_check_notices_a_flipped_bit_at_once(sound: Path) -> None:
    file = sound / "teachers/clip/codes/c/0/0/0/0"
    before = file.read_bytes()
    flip_bit(file, np.random.default_rng(2))
    SceneCache.open(sound)
    with pytest.raises(CacheError, match="teachers/clip/codes/c/0/0/0/0 is damaged"):
        SceneCache.open(sound, check="full")
    file.write_bytes(before)


def cache_machine(reference: Path) -> type[RuleBasedStateMachine]:
    """A machine in which one scene is written with either of two settings, by one writer or two at once, killed
    half-way, damaged, unpublished, removed, swept and written again, in any order.

    `reference`: a sound store, of which a killed writer leaves some files behind.
    """
    examples = [make_example(seed, n=60, views=3) for seed in (0, 1)]
    truths: list[dict[str, np.ndarray]] = []
    with tempfile.TemporaryDirectory() as folder:
        for i, example in enumerate(examples):
            write_example(Path(folder, f"{i}.zarr"), example)
            truths.append(snapshot(SceneCache.open(Path(folder, f"{i}.zarr"))))

    class CacheMachine(RuleBasedStateMachine):
        @initialize()
        def start(self) -> None:
            self.folder = Path(tempfile.mkdtemp())
            self.path = self.folder / "room_0.zarr"
            self.published: int | None = None
            self.damaged = False

        @rule(which=st.integers(0, 1))
        def write(self, which: int) -> None:
            assert write_example(self.path, examples[which]) is (self.published is None)
            if self.published is None:
                self.published = which

        @rule(first=st.integers(0, 1))
        def two_writers(self, first: int) -> None:
            with SceneCacheWriter(self.path, header()) as a, SceneCacheWriter(self.path, header()) as b:
                fill(a, examples[first])
                fill(b, examples[1 - first])
                assert a.publish() is (self.published is None)
                assert not b.publish()
            if self.published is None:
                self.published = first

        @rule(step=st.integers(0, 30))
        def killed_writer(self, step: int) -> None:
            """What SIGKILL leaves: the files written so far, in a temporary folder."""
            temporary = self.folder / ".tmp-0123"
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(reference, temporary)
            for file in sorted(p for p in temporary.rglob("*") if p.is_file())[step:]:
                file.unlink()

        @rule()
        def sweep(self) -> None:
            sweep_orphans(self.folder, older_than=float("inf"))
            assert not list(self.folder.glob(".tmp-*"))

        @precondition(lambda self: self.published is not None)
        @rule(seed=st.integers(0, 10**6), kind=st.sampled_from(DAMAGES))
        def damage(self, seed: int, kind: Callable[[Path, np.random.Generator], None]) -> None:
            rng = np.random.default_rng(seed)
            files = sorted(p for p in self.path.rglob("*") if p.is_file() and p.stat().st_size)
            if files:
                kind(files[int(rng.integers(len(files)))], rng)
                self.damaged = True

        @precondition(lambda self: self.published is not None)
        @rule()
        def take_away(self) -> None:
            unpublish(self.path)
            self.published, self.damaged = None, False

        @precondition(lambda self: self.published is not None)
        @rule()
        def removed_by_hand(self) -> None:
            shutil.rmtree(self.path)
            self.published, self.damaged = None, False

        @invariant()
        def exact_or_named_error(self) -> None:
            if not hasattr(self, "path"):
                return
            if self.published is None:
                with pytest.raises(CacheError, match="no such store"):
                    SceneCache.open(self.path)
                return
            exact = exact_or_error(self.path, truths[self.published])
            assert exact or self.damaged  # two damages may undo each other

        def teardown(self) -> None:
            if hasattr(self, "folder"):
                shutil.rmtree(self.folder)

    return CacheMachine


def test_state_machine(sound: Path) -> None:
    run_state_machine_as_test(
        cache_machine(sound),
        settings=settings(
            max_examples=5,
            stateful_step_count=10,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
