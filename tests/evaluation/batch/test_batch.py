from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import evaluation.batch.run as run
from chorus_common.cluster.settings import ClusterConfig
from chorus_common.labels import SCANNET20
from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.runtime.errors import ChorusError, ConfigError
from chorus_common.scene_io import write_npy_folder
from evaluation.batch.matrix import BatchConfig, Cell, cells, words
from evaluation.batch.protocols import PROTOCOLS
from evaluation.batch.run import CellOutcome, run_cells
from evaluation.batch.table import UNION, markdown, read_table, table_lines, write_parquet
from evaluation.cli import cli
from evaluation.metrics.semantic import DEFINITIONS
from evaluation.published import PUBLISHED, published_for
from evaluation.results import metrics_of, result_document, write_result
from evaluation.scene_scores import SceneScores, scores_path
from evaluation.tasks.finetune import score_of
from tests.evaluation.instance_rooms import room_with_instances


@pytest.fixture
def config(tmp_path: Path) -> BatchConfig:
    """Two encoders, a data set of three folds and one without, a task that learns and one that does not."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_text(name)
    (tmp_path / "m.parquet").write_text("manifest")
    folds = {str(i): f"Area_{i}_*" for i in (1, 2, 3)}
    areas = ["Area_1", "Area_2", "Area_3"]
    return BatchConfig.model_validate(
        {
            "encoders": {name: str(tmp_path / name) for name in ("one", "two")},
            "datasets": {
                "rooms": {"manifest": str(tmp_path / "m.parquet"), "stores": ["cache"]},
                "areas": {
                    "manifest": str(tmp_path / "m.parquet"), "train_splits": areas, "split": "Area_1", "folds": folds
                },
            },
            "tasks": {
                "linear": {"command": "finetune", "seeds": [0, 1], "options": {"mode": "linear", "set": ["steps=3"]}},
                "names": {"command": "zero-shot", "datasets": ["rooms"], "encoders": ["one"]},
            },
        }
    )  # fmt: skip


ONE = ClusterConfig(workers=1)


def fake_scores(cell: Cell) -> SceneScores:
    """Counts of two scenes that depend on the cell."""
    scores = SceneScores(("ceiling", "floor", "wall"))
    rng = np.random.default_rng([int(cell.fold or 0), cell.seed])
    for i in range(2):
        matrix = scores.matrix()
        matrix.counts[:] = rng.integers(0, 50, matrix.counts.shape)
        scores.semantic.setdefault("trained", {})[f"toy/{cell.fold}_{i}"] = matrix
    return scores


def fake_run(cell: Cell, out: Path, threads: int) -> CellOutcome:
    """What a cell leaves behind, without the work."""
    scores = fake_scores(cell)
    path = cell.result(out)
    body = {"rows": {"trained": score_of(scores, "trained")}, "per_scene": scores.per_scene(), "excluded": {}}
    write_result(path, result_document(cell.command, " ".join(cell.arguments), {"label_space": "s3dis13"}, body))
    scores.write(scores_path(path))
    return CellOutcome(cell, "", 0)


def test_the_matrix_has_every_cell_once(config: BatchConfig) -> None:
    matrix = list(cells(config))
    assert len(matrix) == 2 * 2 * (1 + 3) + 1
    assert len({cell.name for cell in matrix}) == len(matrix)
    fold = next(c for c in matrix if c.fold == "2" and c.seed == 1 and c.encoder == "two")
    text = " ".join(fold.arguments)
    assert "--train-split Area_1 --train-split Area_2 --train-split Area_3 --split Area_1 --hold-out Area_2_*" in text
    assert text.endswith("--set seed=1 --set limit.seed=1 --mode linear --set steps=3")
    names = matrix[-1]
    assert names.arguments[:3] == ("zero-shot", "--manifest", config.datasets["rooms"].manifest)
    assert "--train-split" not in names.arguments


def test_options_become_words() -> None:
    assert words({"random": True, "lifted": False, "k": 5, "on_points": "x", "set": ["a=1", "b=2"]}) == [
        "--random", "-k", "5", "--on-points", "x", "--set", "a=1", "--set", "b=2"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": {"t": {"command": "prob"}}}, "unknown command 'prob'"),
        ({"tasks": {"t": {"command": "probe", "encoders": ["three"]}}}, "encoders has no 'three'"),
        ({"encoders": {"a/b": "x"}}, "may hold only"),
        ({"encoders": {}}, "encoders"),
    ],
)
def test_a_wrong_matrix_is_refused(config: BatchConfig, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchConfig.model_validate(config.model_dump() | change)


def test_union_of_folds_is_one_confusion_matrix(
    config: BatchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "run_cell", fake_run)
    matrix = list(cells(config))
    lines = table_lines(run_cells(config, matrix, tmp_path / "out", ONE, threads=1), tmp_path / "out")
    union = [line for line in lines if line["fold"] == UNION]
    assert len(union) == 2 * 2, "one per encoder and seed"
    line = next(x for x in union if x["encoder"] == "one" and x["seed"] == 1)
    total = fake_scores(matrix[0]).matrix()
    for cell in matrix:
        if cell.encoder == "one" and cell.seed == 1 and cell.fold:
            total.merge(fake_scores(cell).total("trained"))
    assert line["miou"] == total.scores().miou
    assert line["n_scenes"] == 6
    folds = [x["miou"] for x in lines if x["encoder"] == "one" and x["seed"] == 1 and x["fold"] in ("1", "2", "3")]
    assert line["miou"] != pytest.approx(np.mean(folds), abs=1e-9), "a mean of folds is another number"
    assert line["command"].count("finetune") == 3


def test_workers_change_nothing_and_what_is_done_stays(
    config: BatchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "ran.txt"  # a file: dask sends the function to its workers as a copy

    def counted(cell: Cell, out: Path, threads: int) -> CellOutcome:
        with record.open("a") as handle:
            handle.write(cell.name + "\n")
        return fake_run(cell, out, threads)

    monkeypatch.setattr(run, "run_cell", counted)
    matrix = list(cells(config))
    for name, workers in (("a", 1), ("b", 3)):
        out = tmp_path / name
        write_parquet(
            table_lines(run_cells(config, matrix, out, ClusterConfig(workers=workers), threads=1), out),
            out / "r.parquet",
        )
    assert (tmp_path / "a" / "r.parquet").read_bytes() == (tmp_path / "b" / "r.parquet").read_bytes()
    assert len(record.read_text().split()) == 2 * len(matrix)
    run_cells(config, matrix, tmp_path / "a", ONE, threads=1)
    assert len(record.read_text().split()) == 2 * len(matrix), "nothing is run twice"
    (Path(config.encoders["two"]) / "model.safetensors").write_text("other weights")
    run_cells(config, matrix, tmp_path / "a", ONE, threads=1)
    again = record.read_text().split()[2 * len(matrix) :]
    assert again == [c.name for c in matrix if c.encoder == "two"], "new weights, new figures"


def test_a_cell_that_fails_is_shown_and_tried_again(
    config: BatchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process that ends with one line of error: there is no store."""
    matrix = [c for c in cells(config) if c.task == "names"]
    outcomes = run_cells(config, matrix, tmp_path, ONE, threads=1)
    assert outcomes[0].problem.startswith("error: cache: no such store")
    lines = table_lines(outcomes, tmp_path)
    assert [line["problem"] for line in lines] == [outcomes[0].problem]
    assert "## Failed" in markdown(lines, "x")
    monkeypatch.setattr(run, "run_cell", fake_run)
    assert not run_cells(config, matrix, tmp_path, ONE, threads=1)[0].problem


#: A program in place of chorus-eval: it writes a result that leaves a scene out, and ends as chorus-eval does.
PARTIAL = """
import sys
from pathlib import Path
from evaluation.results import result_document, write_result
body = {"rows": {"student": {"miou": 0.25}}, "per_scene": {"toy/a": {}}}
body["excluded"] = {"toy/b": "damaged; write it anew"}
write_result(Path(sys.argv[-1]), result_document("zero-shot", "chorus-eval zero-shot", {"label_space": ""}, body))
sys.exit(1)
"""


def test_a_crash_does_not_publish_the_figures_of_an_earlier_run(
    config: BatchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = [c for c in cells(config) if c.task == "names"]
    fake_run(matrix[0], tmp_path, 1)  # older weights: there is a result and no key for what is asked now
    monkeypatch.setattr(run, "_PROGRAM", "raise RuntimeError('out of luck')")
    outcome = run_cells(config, matrix, tmp_path, ONE, threads=1)[0]
    assert outcome.problem.startswith("RuntimeError: out of luck (exit code 1")
    result = matrix[0].result(tmp_path)
    assert not result.exists()
    assert not scores_path(result).exists()
    assert [line["row"] for line in table_lines([outcome], tmp_path)] == [""], "no figures"


def test_scenes_that_failed_are_shown_make_exit_1_and_are_tried_again(
    config: BatchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = [c for c in cells(config) if c.task == "names"]
    monkeypatch.setattr(run, "_PROGRAM", PARTIAL)
    outcome = run_cells(config, matrix, tmp_path, ONE, threads=1)[0]
    assert (outcome.problem, outcome.code, outcome.complete) == ("", 1, False)
    assert not matrix[0].result(tmp_path).with_suffix(".key").exists()
    lines = table_lines([outcome], tmp_path)
    assert [(line["miou"], line["n_scenes"], line["n_excluded"]) for line in lines] == [(0.25, 1, 1)]
    text = markdown(lines, "x")
    assert "| scenes | left out |" in text
    assert "| toy/b | damaged; write it anew | names / rooms / one / seed 0 |" in text
    write_parquet(lines, tmp_path / "r.parquet")
    assert read_table(tmp_path / "r.parquet")[0]["left_out"] == {"toy/b": "damaged; write it anew"}

    path = tmp_path / "matrix.toml"
    path.write_text(
        f'[encoders]\none = "{config.encoders["one"]}"\n[datasets.rooms]\n'
        f'manifest = "{config.datasets["rooms"].manifest}"\n[tasks.names]\ncommand = "zero-shot"\n'
    )
    words = ["batch", "--config", str(path), "--out", str(tmp_path / "out")]
    called = CliRunner().invoke(cli, words, standalone_mode=False)
    assert called.exception is None
    assert called.return_value == 1
    assert "1 of 1 cells had scenes that failed; run the same command again" in called.output
    monkeypatch.setattr(run, "_PROGRAM", PARTIAL.replace("sys.exit(1)", ""))
    assert CliRunner().invoke(cli, words, standalone_mode=False).return_value == 0, "it was tried again"


def test_table_keeps_its_content(config: BatchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "run_cell", fake_run)
    lines = table_lines(run_cells(config, list(cells(config)), tmp_path, ONE, threads=1), tmp_path)
    write_parquet(lines, tmp_path / "r.parquet")
    read = read_table(tmp_path / "r.parquet")
    assert [line["command"] for line in read] == [line["command"] for line in lines]
    ours = [line for line in read if line["origin"] == "measured"]
    assert all(line["command"] for line in ours)
    published = [line for line in read if line["origin"] == "published"]
    assert len(published) == len(published_for("s3dis13")) > 0
    assert all(line["source"] for line in published)
    text = markdown(lines, "chorus-eval batch")
    assert "±" in text, "two seeds have a spread"
    assert "72.1" in text, "GaussianCross on Area 5"
    assert pq.read_table(tmp_path / "r.parquet").schema.field("miou").type == "double"
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"x.parquet"):
        read_table(tmp_path / "x.parquet")


def test_metrics_of_a_row() -> None:
    row = {
        "miou": 0.5, "n": 3, "groups": {"tail": {"miou": 0.1, "macc": None}},
        "instances": {"ap": 0.2, "definition": "x", "groups": {"tail": {"ap": 0.05}}},
    }  # fmt: skip
    assert metrics_of(row) == {"miou": 0.5, "ap": 0.2, "miou_tail": 0.1, "ap_tail": 0.05}


def test_metrics_of_a_row_of_retrieval() -> None:
    """Means over perturbations, and each perturbation under its name: the shape that `tasks.retrieval` writes."""
    figures = {"recall_at_1": 0.5, "map": 0.6, "class_recall_at_1": 0.7, "class_map": None, "n_queries": 4}
    row = {"noise-0.01": figures, "turn-90": {**figures, "map": 0.2}, "mean": {"recall_at_1": 0.5, "map": 0.4}}
    assert metrics_of(row) == {
        "recall_at_1": 0.5, "map": 0.4,
        "recall_at_1_noise-0.01": 0.5, "map_noise-0.01": 0.6, "class_recall_at_1_noise-0.01": 0.7,
        "recall_at_1_turn-90": 0.5, "map_turn-90": 0.2, "class_recall_at_1_turn-90": 0.7,
    }  # fmt: skip


def test_published_numbers_are_facts_with_a_source() -> None:
    assert all(0 < p.percent < 100 and p.source and p.method for p in PUBLISHED)
    keys = [(p.task, p.dataset, p.metric, p.method, p.source) for p in PUBLISHED]
    assert len(set(keys)) == len(keys)
    known = {(p.task, p.dataset, p.metric, p.method): p.percent for p in PUBLISHED}
    assert known["zero-shot", "scannet200", "f_miou", "Chorus"] == 24.6
    assert known["finetune full, 20 points", "scannet20", "miou", "GaussianCross"] == 61.7
    assert known["finetune linear", "s3dis13 6-fold", "macc", "GaussianCross"] == 45.5
    assert known["finetune full instance", "scannet200", "ap", "GaussianCross"] == 20.6


def test_dry_run_prints_commands(config: BatchConfig, tmp_path: Path) -> None:
    path = tmp_path / "matrix.toml"
    path.write_text(
        '[encoders]\ndemo = "d"\n[datasets.r]\nmanifest = "m"\n[tasks.t]\ncommand = "probe"\noptions = {l2 = 0.1}\n'
    )
    words = ["batch", "--config", str(path), "--out", str(tmp_path / "o"), "--dry-run"]
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert result.exception is None
    assert result.output.startswith("chorus-eval probe --manifest m --train-split train --split val --encoder d")
    missing = CliRunner().invoke(cli, words[:-1], standalone_mode=False)
    assert isinstance(missing.exception, ChorusError)
    assert "encoder t" in str(missing.exception) or "encoder demo" in str(missing.exception)
    assert not (tmp_path / "o" / "cells").exists()
    assert json.loads((tmp_path / "o" / "batch.json").read_text())["encoders"] == {"demo": "d"}


def test_features_under_published_protocols_in_one_table(tmp_path: Path) -> None:
    """One folder of feature files under protocols by name: real cells, and the means that their results hold."""
    rng = np.random.default_rng(0)
    scene = room_with_instances(0, per_box=40)
    folder = tmp_path / "room0"
    write_npy_folder(scene, folder)
    assert scene.labels is not None
    assert scene.instances is not None
    for key, values in (("coord", scene.means), ("segment", scene.labels), ("instance", scene.instances)):
        np.save(folder / f"pc_{key}.npy", values)
    row = ManifestRow("toy", "room0", "val", "npy-folder", folder, None, "scannet20", len(scene), "0" * 64)
    Manifest(tmp_path, (row,)).write(tmp_path / "m.parquet")
    vectors = {name: rng.standard_normal(16).astype(np.float32) for name in SCANNET20}
    np.savez(tmp_path / "text.npz", **vectors)
    seen = np.stack([vectors[SCANNET20[max(k, 0)]] for k in scene.labels]) + 1.5 * rng.standard_normal((len(scene), 16))
    seen[::7] = 0  # nothing is known about these
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "room0.npy", seen.astype(np.float32))
    options = {"text-embeddings": str(tmp_path / "text.npz"), "k": "1"}
    names = ("chorus-release", "scenesplat-tester-oracle")
    config = BatchConfig.model_validate(
        {
            "features": {"theirs": str(tmp_path / "features")},
            "datasets": {"rooms": {"manifest": str(tmp_path / "m.parquet")}},
            "tasks": {name: {"command": "zero-shot", "protocol": name, "options": options} for name in names},
        }
    )
    out = tmp_path / "out"
    outcomes = run_cells(config, list(cells(config)), out, ONE, threads=1)
    assert [outcome.problem for outcome in outcomes] == [""] * 2
    lines = {line["protocol"]: line for line in table_lines(outcomes, out) if line["origin"] == "measured"}
    assert list(lines) == list(names)
    for outcome in outcomes:
        rows = json.loads(outcome.cell.result(out).read_text())["rows"]
        protocol, line = PROTOCOLS[outcome.cell.protocol], lines[outcome.cell.protocol]
        (name,) = [name for name in rows if rows[name]["oracle"] == protocol.oracle]
        means = rows[name] | rows[name]["published_definitions"].get(protocol.definition, {})
        assert {key: line[key] for key in ("miou", "f_miou", "macc")} == {
            k: means[k] for k in ("miou", "f_miou", "macc")
        }
        assert (line["row"], line["source"]) == (name, protocol.source)
        assert "--features" in outcome.cell.arguments
        assert "--encoder" not in outcome.cell.arguments
    first, second = (lines[name]["overall_accuracy"] for name in names)
    assert first < second, "instances of the ground truth vote in the second alone"
    text = markdown(list(lines.values()), "batch")
    assert text.count("| theirs |") >= 2 * len(names)
    assert "## By published protocol" in text
    again = run_cells(config, list(cells(config)), out, ONE, threads=1)
    assert [outcome.problem for outcome in again] == [""] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "theirs"}, "unknown protocol 'theirs'; known: chorus-release"),
        ({"command": "probe", "protocol": "chorus-release"}, "protocols are of zero-shot, not of probe"),
        (
            {"command": "finetune", "encoders": ["files"]},
            "finetune takes encoders, and 'files' is a folder",
        ),
    ],
)
def test_protocols_and_features_that_do_not_fit(change: dict[str, object], message: str) -> None:
    given = {
        "encoders": {"a": "a"},
        "features": {"files": "f"},
        "datasets": {"d": {"manifest": "m"}},
        "tasks": {"t": {"command": "zero-shot"} | change},
    }
    with pytest.raises(ValueError, match=message):
        BatchConfig.model_validate(given)
    assert set(DEFINITIONS) >= {protocol.definition for protocol in PROTOCOLS.values()}
