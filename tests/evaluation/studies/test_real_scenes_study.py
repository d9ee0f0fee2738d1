"""The study of real scans on made-up ones of the same format: its parts end to end, its figures, its plan."""

from __future__ import annotations

import itertools
import json
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from chorus_common.manifest import Manifest
from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import GaussianScene
from evaluation.metrics.instance import InstanceEvaluator
from evaluation.proposals.proposals import Proposals, rows_to_masks
from evaluation.results import read_result
from evaluation.scene_scores import matches_of
from evaluation.scenes import EvalScene, LoadedScene
from evaluation.studies.jobs import run_jobs
from evaluation.studies.real_scenes import conse_trials
from evaluation.studies.real_scenes.conse_trials import VARIANTS, Texts, softmax
from evaluation.studies.real_scenes.lifted_scores import area_under_curve
from evaluation.studies.real_scenes.masks import ObjectsJob
from evaluation.studies.real_scenes.plan import (
    CLASSICAL,
    DENSE,
    PARTS,
    SCANS,
    STUDENT,
    STUDENTS,
    TEXT,
    Study,
    StudyTeacher,
    plan,
)
from evaluation.studies.real_scenes.table import figures, spread
from evaluation.targets import EvalTarget
from stage2_distill.settings import TrainConfig
from tests.evaluation.rooms import TEACHER, Rooms, make_scene

#: NYU40 ids of the classes of `make_scene`.
NYU40 = {0: 1, 1: 2, 4: 5, 6: 7}


def scan_tables(root: Path, names: dict[str, tuple[str, ...]]) -> Path:
    """Tables as VoteNet's export has them, and the release file that splits them."""
    root.mkdir()
    for seed, name in enumerate(name for split in names.values() for name in split):
        scene = make_scene(seed, 3000)
        assert scene.labels is not None
        np.save(root / f"{name}_vert.npy", np.hstack([scene.means, 255 * scene.colors]).astype(np.float32))
        labels = np.array([NYU40.get(int(c), 0) for c in scene.labels])
        np.save(root / f"{name}_sem_label.npy", labels)
        np.save(root / f"{name}_ins_label.npy", np.where(labels > 0, labels, 0))
    text = SCANS.read_text(encoding="utf-8").partition("[release.split_lists]")[0]
    lists = "".join(f"{split} = {json.dumps(list(ids))}\n" for split, ids in names.items())
    release = root / "scans.toml"
    release.write_text(f"{text}[release.split_lists]\n{lists}", encoding="utf-8")
    return release


def test_no_room_is_on_both_sides() -> None:
    lists = tomllib.loads(SCANS.read_text(encoding="utf-8"))["release"]["split_lists"]
    rooms = {split: {name.partition("_")[0] for name in ids} for split, ids in lists.items()}
    assert (len(lists["train"]), len(lists["val"])) == (17, 6)
    assert not rooms["train"] & rooms["val"]


def test_the_plan_has_no_unmet_need_and_valid_settings(tmp_path: Path) -> None:
    for parts in (PARTS, *((part,) for part in PARTS)):
        names: list[str] = []
        for job in plan(Study(tmp_path, tmp_path, parts)):
            assert set(job.needs) <= set(names)
            assert job.name not in names
            names.append(job.name)
            for command in job.commands:
                if command[:2] == ("chorus-stage2", "train"):
                    settings = [b for a, b in itertools.pairwise(command) if a == "--set"]
                    config = load_config(TrainConfig, STUDENT, settings)
                    assert config.epochs * config.data.samples_per_epoch == 200 * config.batch_size
        assert ("students" in parts) == any(STUDENTS[0].name in name for name in names)
    with pytest.raises(ConfigError, match="--only mask: no such part; did you mean 'masks'"):
        Study(tmp_path, tmp_path, ("mask",))


def test_made_up_scans_go_the_whole_way(tmp_path: Path) -> None:
    """The parts that train no student, with embedded teachers in the place of the real ones and fields of a few steps;
    the second time nothing is done.
    """
    release = scan_tables(tmp_path / "root", {"train": ("a_00", "b_00"), "val": ("c_00",)})
    small = ("width=96", "height=64", "cell=8", "calibration.tokens=8")
    study = Study(
        tmp_path / "root", tmp_path / "out", ("lifted", "masks", "instances", "fields", "probes"), release,
        2, 2, 2, 2, 20, 2, small, ("iterations=4",), lifted=(TEXT,), masks=(CLASSICAL,), named=(CLASSICAL,),
        fields=(CLASSICAL,), probed=(DENSE,), learned=(TEXT, DENSE),
    )  # fmt: skip
    study.record_settings()
    jobs = plan(study)
    outcome = run_jobs(jobs, study.out / "logs", workers=2, minutes=10)
    assert (outcome.done, outcome.left) == (len(jobs), 0)
    assert {row.split for row in Manifest.read(study.manifest)} == {"train", "val"}
    body = figures(study)
    assert body.count("| embedded:text |") == body.count("| embedded:dense |") == body.count("| embedded:masks |") == 1
    assert body.count("| field on embedded:masks |") == body.count("| lifted_teacher on masks of embedded:masks |") == 1
    assert " ± " in body
    assert "| - |" not in body
    assert all(job.done() for job in plan(study))
    with pytest.raises(ConfigError, match=r"other settings \(views: .*, now 3\); give another --out"):
        replace(study, views=3).record_settings()


def test_objects_need_no_names() -> None:
    """Masks of the chair and the table score full, whatever their order; walls and what has no label are void."""
    scene = make_scene(0)
    assert scene.labels is not None
    labelled = replace(scene, instances=np.where(scene.labels >= 0, scene.labels, -1).astype(np.int32))
    masks = [np.flatnonzero(labelled.labels == c) for c in (6, 4, 0)]
    found = rows_to_masks(masks, len(scene))
    result = ObjectsJob(Given(Proposals(found, found, np.array([0.2, 0.9, 1.0]))), "scannet20", 10)(Here(labelled))
    evaluator = InstanceEvaluator(("object",), min_region_size=10)
    evaluator.scenes = [matches_of(result["state"])]
    assert result["proposals"] == 3
    assert evaluator.average_precision().as_dict()["ap"] == 1.0


@dataclass(frozen=True)
class Given:
    """Proposals that are given."""

    proposals: Proposals
    origin: str = "given"
    oracle: bool = False

    def open(self, target: EvalTarget) -> Proposals:
        return self.proposals


class Here(EvalScene):
    """A scene in memory."""

    def __init__(self, scene: GaussianScene) -> None:
        super().__init__("toy", "room")
        object.__setattr__(self, "scene", scene)

    def load(self, label_space: str = "") -> LoadedScene:
        return LoadedScene(self, self.scene, None)  # type: ignore[attr-defined]


def test_figures_show_what_is_there(tmp_path: Path) -> None:
    study = Study(tmp_path, tmp_path, ("students",))
    for seed, miou in enumerate((0.1, 0.2)):
        path = study.result(f"student {STUDENTS[0].name} seed {seed}")
        path.parent.mkdir(exist_ok=True)
        rows = {"student": {"miou": miou, "f_miou": 0.05}, "lifted_teacher": {"miou": 0.094, "f_miou": 0.06}}
        path.write_text(json.dumps({"rows": rows}))
    body = figures(study)
    assert f"| {STUDENTS[0].name} | 15.0 ± 7.1 | 5.0 ± 0.0 |" in body
    assert f"| {STUDENTS[1].name} | - | - |" in body
    assert "| its lifted teacher | 9.4 | 6.0 |" in body
    assert spread([3.0]) == "3.0"


def test_the_area_under_the_curve_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, inside = rng.integers(0, 5, 60).astype(np.float32), rng.random(60) < 0.3
    pairs = scores[inside][:, None] - scores[~inside][None]
    assert area_under_curve(scores, inside) == pytest.approx(float(((pairs > 0) + 0.5 * (pairs == 0)).mean()))
    assert np.isnan(area_under_curve(scores, np.zeros(60, bool)))


def test_ways_to_ask_a_classifier() -> None:
    """Each variant on one answer, by hand: a surest class 500 and a less sure animal 3."""
    rng = np.random.default_rng(1)
    names = rng.standard_normal((1000, 8)).astype(np.float32)
    lengths = np.linalg.norm(names, axis=1)
    texts = Texts(names / lengths[:, None], lengths, np.eye(8, dtype=np.float32)[:3])
    logits = np.full((1, 1000), -1e4, dtype=np.float32)
    logits[0, 500], logits[0, 3] = 1.0, 0.0
    sure = np.exp(1) / (1 + np.exp(1))
    both = sure * names[500, :3] + (1 - sure) * names[3, :3]
    expected = {"one": names[500, :3], "all": both, "ten likeliest classes": both}
    expected["ten likeliest, without animals"] = names[500, :3]
    for name, scores in expected.items():
        np.testing.assert_allclose(VARIANTS[name](logits, texts)[0], scores, rtol=1e-4, err_msg=name)
    shares = softmax(texts.likeness.T, 0.05)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    asked = VARIANTS["names near the query alone"](logits, texts)[0]
    np.testing.assert_allclose(asked, sure * shares[:, 500] + (1 - sure) * shares[:, 3], rtol=1e-4)


def test_trials_go_through_a_store(rooms: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a classifier of random weights; most classes have no points in these rooms."""
    rng = np.random.default_rng(2)
    names = rng.standard_normal((1000, 8)).astype(np.float32)
    lengths = np.linalg.norm(names, axis=1)
    texts = Texts(names / lengths[:, None], lengths, rng.standard_normal((20, 8)).astype(np.float32))
    head = rng.standard_normal((1000, 32)).astype(np.float32), np.zeros(1000, np.float32)
    monkeypatch.setattr(conse_trials, "FINE_BACKBONE", StudyTeacher(TEACHER, ""))
    monkeypatch.setattr(conse_trials, "read_head", lambda: head)
    monkeypatch.setattr(conse_trials, "read_texts", lambda class_names: texts)
    where = ["--store", str(rooms.store), "--manifest", str(rooms.manifest), "--out", str(tmp_path / "t.json")]
    called = CliRunner().invoke(conse_trials.command, where, standalone_mode=False)
    assert called.exception is None, called.exception
    rows = read_result(tmp_path / "t.json")["rows"]
    assert len(rows) == 2 * len(VARIANTS)
    assert all(0 <= row["auc"] <= 1 and row["miou"] >= 0 for row in rows.values())
