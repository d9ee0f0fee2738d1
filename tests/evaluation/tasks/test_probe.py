from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.special import log_softmax

from chorus_common.labels import SCANNET20
from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import GaussianScene
from chorus_common.scene_io import write_npy_folder
from evaluation import features
from evaluation.cli import cli
from evaluation.features import ArrayFeatures, EncoderFeatures, FeatureFiles, FeatureSource, encode_latent
from evaluation.results import read_result
from evaluation.run_scenes import PartialResults
from evaluation.scene_scores import SceneScores
from evaluation.scenes import LoadedScene, Selection, labelled_scenes, select_scenes
from evaluation.sources import lifted_teacher
from evaluation.tasks import probe as module
from evaluation.tasks.probe import LinearHead, ProbeConfig, fit_linear, probe, random_twin
from stage2_distill.encoder import build_encoder
from tests.evaluation.rooms import TEACHER, Rooms, make_scene
from tests.evaluation.student import TINY, fake_tta


def plain_loss(head: LinearHead, x: np.ndarray, y: np.ndarray, config: ProbeConfig) -> float:
    """The documented loss in double precision."""
    z = (x.astype(np.float64) - head.mean) / head.deviation
    losses = -log_softmax(z @ head.weight.astype(np.float64) + head.bias, axis=1)[np.arange(len(y)), y]
    if config.balance == "balanced":
        weight = 1 / np.bincount(y)[y]
        loss = float((weight * losses).sum() / weight.sum())
    else:
        loss = float(losses.mean())
    return loss + 0.5 * config.l2 * float((head.weight.astype(np.float64) ** 2).sum())


def blobs(n: int = 400, d: int = 6, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.choice(k, n, p=[0.6, 0.2, 0.15, 0.05])
    x = 1.5 * rng.standard_normal((k, d))[y] + rng.standard_normal((n, d))
    return (100 + 7 * x).astype(np.float32), y


@pytest.mark.parametrize("balance", ["plain", "balanced"])
def test_the_fit_is_the_optimum_of_the_documented_loss(balance: str) -> None:
    x, y = blobs()
    config = ProbeConfig(balance=balance, l2=1e-2)  # type: ignore[arg-type]
    head = fit_linear(x, y, 4, config)
    best = plain_loss(head, x, y, config)
    rng = np.random.default_rng(1)
    for _ in range(30):  # convex: no step in any direction helps
        moved = LinearHead(
            head.mean,
            head.deviation,
            (head.weight + 0.03 * rng.standard_normal(head.weight.shape)).astype(np.float32),
            (head.bias + 0.03 * rng.standard_normal(4)).astype(np.float32),
        )
        assert plain_loss(moved, x, y, config) > best
    # The same optimum by an independent path: full-batch gradient descent in double precision.
    z = torch.from_numpy((x.astype(np.float64) - head.mean) / head.deviation)
    w, b = (
        torch.zeros(6, 4, dtype=torch.float64, requires_grad=True),
        torch.zeros(4, dtype=torch.float64, requires_grad=True),
    )
    share = torch.ones(len(y), dtype=torch.float64) if balance == "plain" else torch.from_numpy(1 / np.bincount(y)[y])
    optimiser = torch.optim.SGD([w, b], lr=0.5)
    for _ in range(3000):
        optimiser.zero_grad()
        each = torch.nn.functional.cross_entropy(z @ w + b, torch.from_numpy(y), reduction="none")
        loss = (share * each).sum() / share.sum() + 0.5 * config.l2 * (w * w).sum()
        loss.backward()
        optimiser.step()
    assert best == pytest.approx(float(loss.detach()), abs=1e-5)
    np.testing.assert_allclose(head.weight, w.detach().numpy(), atol=2e-2)


def test_passes_constant_channels_and_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs()
    x = np.concatenate([x, np.full((len(x), 1), 3.0, np.float32)], axis=1)
    head = fit_linear(x, y, 4, ProbeConfig())
    assert np.isfinite(head.weight).all()
    predictions = head.predict(x)
    assert (predictions == y).mean() > 0.8
    monkeypatch.setattr(module, "_PASS", 37)
    np.testing.assert_array_equal(head.predict(x), predictions)
    scaled = fit_linear(1000 * x, y, 4, ProbeConfig()).predict(1000 * x)
    assert (scaled == predictions).mean() > 0.99


def test_random_twin_has_the_shape_but_not_the_weights() -> None:
    encoder = build_encoder("chorus-lite", **TINY)
    state = torch.random.get_rng_state()
    twin, again, other = random_twin(encoder, 0), random_twin(encoder, 0), random_twin(encoder, 1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not twin.training
    for (name, a), b, c, d in zip(
        encoder.named_parameters(), twin.parameters(), again.parameters(), other.parameters()
    ):
        assert a.shape == b.shape
        assert torch.equal(b, c)
        if a.ndim > 1:
            assert not torch.equal(a, b), name
            assert not torch.equal(b, d), name


def selected(rooms: Rooms) -> tuple[Selection, Selection]:
    train = select_scenes([rooms.store], rooms.manifest, "train")
    val = select_scenes([rooms.store], rooms.manifest, "val")
    for selection in (train, val):
        labelled_scenes(selection)
    return train, val


def run(rooms: Rooms, workers: int = 1, partial: PartialResults | None = None, **settings: object) -> dict[str, object]:
    train, val = selected(rooms)
    config = ProbeConfig(**{"points_per_scene": 200, **settings})  # type: ignore[arg-type]
    torch.manual_seed(0)
    encoder = build_encoder("chorus-lite", **TINY).eval()
    sources: dict[str, FeatureSource] = {
        "trained": EncoderFeatures(encoder),
        "random": EncoderFeatures(random_twin(encoder, config.seed)),
    }
    return probe(train, val, "scannet20", sources, config, SceneScores(SCANNET20), workers=workers, partial=partial)


def test_probe_is_deterministic_and_scores_what_was_not_fitted(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.features.encode_tta", fake_tta)
    first = run(rooms)
    assert run(rooms) == first
    rows = first["rows"]
    assert set(rows) == {"trained", "random"}  # type: ignore[call-overload]
    for row in rows.values():  # type: ignore[attr-defined]
        assert row["n_train"] == 400
        assert row["miou"] > 0.5, "place and colour tell the toy classes apart"
    assert list(first["per_scene"]) == ["toy/val_0", "toy/val_1"]  # type: ignore[call-overload]
    assert list(first["excluded"]) == ["toy/missing_0", "toy/zz_0"]  # type: ignore[call-overload]
    # with so few points what is drawn must matter, and the draw is the seed's
    assert run(rooms, seed=1, points_per_scene=30) != run(rooms, seed=2, points_per_scene=30)


def test_processes_change_no_number(rooms: Rooms) -> None:
    assert run(rooms, workers=2) == run(rooms)


def test_an_interrupted_probe_goes_on(rooms: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []

    def counted(encoder: object, scene: GaussianScene, tta_rotations: int = 1) -> np.ndarray:
        encoded.append(scene.name)
        return encode_latent(encoder, scene, tta_rotations)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "encode_latent", counted)
    partial = PartialResults.beside(tmp_path / "p.json", {"seed": 0})
    whole = run(rooms, partial=partial)
    assert len(encoded) == 2 * 4, "two encoders, two scenes to fit on, two to score"
    encoded.clear()
    assert run(rooms, partial=partial) == whole
    assert encoded == []
    # a scene whose arrays are missing or cut short is read again, alone; so are scores once the heads are others
    broken = next((partial.folder / "reading").glob("*.npz"))
    for damage in (broken.unlink, lambda: broken.write_bytes(broken.read_bytes()[:100])):
        damage()
        assert run(rooms, partial=partial) == whole
        assert len(encoded) == 2
        encoded.clear()
    # other settings, killed between the arrays of a scene and their mark: the first settings do not take those arrays
    others = PartialResults.beside(tmp_path / "p.json", {"seed": 1})
    monkeypatch.setattr("evaluation.run_scenes.write_text_atomically", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(rooms, partial=others, seed=1)
    monkeypatch.undo()
    monkeypatch.setattr(features, "encode_latent", counted)
    assert run(rooms, partial=partial) == whole
    encoded.clear()
    run(rooms, partial=partial, l2=1.0)
    assert len(encoded) == 2 * 2
    partial.clear()
    assert not partial.folder.exists()


def perfect_files(rooms: Rooms, folder: Path) -> Path:
    """Feature files of all rooms: the class in 20 channels, rows in the order of the source."""
    folder.mkdir()
    for name, scene in rooms.scenes.items():
        if scene.labels is not None:
            np.save(folder / f"{name}.npy", np.eye(21, dtype=np.float32)[scene.labels][:, :20])
    return folder


def test_files_of_features_are_probed(rooms: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in passes that end within a scene: rows that are drawn, and rows that are scored."""
    folder = perfect_files(rooms, tmp_path / "features")
    config = ProbeConfig(points_per_scene=200)

    def rows() -> dict[str, object]:
        train, val = selected(rooms)
        return probe(train, val, "scannet20", {"f": FeatureFiles(folder, None)}, config, SceneScores(SCANNET20))

    found = rows()
    assert found["rows"]["f"]["miou"] == 1.0  # type: ignore[index]
    assert found["rows"]["f"]["n_train"] == 400  # type: ignore[index]
    monkeypatch.setattr(module, "PASS", 77)
    assert rows() == found
    np.save(folder / "val_1.npy", np.zeros((600, 7), np.float32))
    assert rows()["excluded"]["toy/val_1"] == (  # type: ignore[index]
        "features have 7 channels, those that the layer was fitted on 20"
    )
    np.save(folder / "train_1.npy", np.zeros((600, 7), np.float32))
    with pytest.raises(ConfigError, match=r"toy/train_1: features have 7 channels, those of toy/train_0 20"):
        rows()


def test_the_command_takes_files_of_features_alone(rooms: Rooms, tmp_path: Path) -> None:
    folder = perfect_files(rooms, tmp_path / "features")
    where = ["probe", "--store", rooms.store, "--manifest", rooms.manifest, "--out", tmp_path / "r.json"]
    called = CliRunner().invoke(cli, [str(w) for w in (*where, "--features", folder)], standalone_mode=False)
    assert called.exception is None, called.exception
    document = read_result(tmp_path / "r.json")
    assert list(document["rows"]) == ["features"]
    assert document["rows"]["features"]["miou"] == 1.0
    assert document["inputs"]["features"] == str(folder)
    called = CliRunner().invoke(cli, [str(w) for w in where], standalone_mode=False)
    assert isinstance(called.exception, ConfigError)
    assert "give --encoder, --features or --teacher" in str(called.exception)


def test_the_command_takes_a_lifted_teacher(rooms: Rooms, tmp_path: Path) -> None:
    """As files of the same features do."""
    where = ["probe", "--store", rooms.store, "--manifest", rooms.manifest, "--points-per-scene", 100]
    called = [*where, "--teacher", TEACHER, "--out", tmp_path / "lifted.json"]
    assert CliRunner().invoke(cli, [str(w) for w in called], standalone_mode=False).exception is None
    folder = tmp_path / "features"
    folder.mkdir()
    for selection in selected(rooms):
        for scene in selection.scenes:
            loaded = scene.load()
            rows = lifted_teacher(scene, TEACHER).open(loaded).rows(0, len(loaded.gaussians))
            in_file_order = np.empty_like(rows)
            in_file_order[loaded.gaussians.source_ids] = rows
            np.save(folder / f"{scene.scene_id}.npy", in_file_order)
    called = [*where, "--features", folder, "--out", tmp_path / "files.json"]
    assert CliRunner().invoke(cli, [str(w) for w in called], standalone_mode=False).exception is None
    rows = [read_result(tmp_path / name)["rows"] for name in ("lifted.json", "files.json")]
    assert rows[0]["lifted_teacher"] == rows[1]["features"]


@pytest.mark.parametrize(("place", "wrong"), [("train_1", 20), ("val_1", -7)])
def test_labels_outside_the_label_space_leave_their_scene_out(tmp_path: Path, place: str, wrong: int) -> None:
    rows = []
    for i, (split, name) in enumerate((split, f"{split}_{j}") for split in ("train", "val") for j in (0, 1)):
        scene = make_scene(i)
        if name == place:
            assert scene.labels is not None
            scene.labels[0] = wrong
        path = write_npy_folder(scene, tmp_path / name)
        rows.append(ManifestRow("toy", name, split, "npy-folder", path, None, "scannet20", len(scene), "0" * 64))
    manifest = Manifest(tmp_path, tuple(rows)).write(tmp_path / "manifest.parquet")
    train, val = (select_scenes([], manifest, split) for split in ("train", "val"))
    sources = {"place": Place()}
    found = probe(train, val, "scannet20", sources, ProbeConfig(points_per_scene=50), SceneScores(SCANNET20))
    reason = f"toy/{place}: ground truth {wrong} is outside the label space of 20 classes (scannet20)"
    assert found["excluded"] == {f"toy/{place}": reason}
    assert train.failed or val.failed, "exit code 1"
    assert found["rows"]["place"]["n_train"] == (50 if place == "train_1" else 100)


class Place:
    """Features that are places."""

    def open(self, scene: LoadedScene) -> ArrayFeatures:
        return ArrayFeatures(scene.gaussians.means)
