from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from chorus_common.runtime.errors import ConfigError
from evaluation.cli import cli
from evaluation.comparison import _instances, _retrieval, _semantic, compare
from evaluation.metrics.instance import InstanceEvaluator
from evaluation.metrics.retrieval import FIGURES, QuerySums
from evaluation.results import read_result, result_document, write_result
from evaluation.scene_scores import SceneScores, scores_path

NAMES = ("wall", "chair", "table")


def make_scores(quality: float, seed: int = 1, n_scenes: int = 8) -> SceneScores:
    """Scenes with the same ground truth for every quality; `quality` of the points are predicted right."""
    scores = SceneScores(NAMES, NAMES[1:], {}, 5)
    for s in range(n_scenes):
        truth = np.random.default_rng([9, s]).integers(-1, 3, 400)
        rng = np.random.default_rng([seed, s])
        predicted = np.where(rng.random(400) < quality, truth, rng.integers(0, 3, 400))
        scores.semantic.setdefault("trained", {})[f"toy/{s}"] = scores.matrix().add(truth, np.maximum(predicted, 0))
        labels = np.where(truth > 0, truth - 1, -1)
        instances = np.where(labels >= 0, 2 * labels + np.arange(400) % 2, -1)
        masks = [np.flatnonzero((instances == i) & (rng.random(400) < quality)) for i in range(4)]
        evaluator = InstanceEvaluator(NAMES[1:], min_region_size=5)
        evaluator.add(masks, np.array([0, 0, 1, 1]), rng.random(4), labels, instances)
        scores.instances.setdefault("trained", {})[f"toy/{s}"] = evaluator.scenes[0]
    return scores


def test_draws_are_scored_as_the_metrics_would() -> None:
    """The vectorised means over drawn scenes equal the metric objects, filled scene by scene."""
    scores = make_scores(0.6)
    names = sorted(scores.semantic["trained"])
    picks = np.random.default_rng(0).integers(0, len(names), (5, len(names)))
    fast, fast_ap = _semantic(scores, "trained", names)(picks), _instances(scores, "trained", names)(picks)
    for pick, row, ap in zip(picks, fast, fast_ap):
        total = scores.matrix()
        for i in pick:
            total.merge(scores.semantic["trained"][names[i]])
        expected = total.scores()
        np.testing.assert_allclose(row, [expected.miou, expected.f_miou, expected.macc], rtol=1e-12)
        one = scores.evaluator("trained", [names[i] for i in pick]).average_precision().as_dict()
        np.testing.assert_allclose(ap, [one["ap"], one["ap50"], one["ap25"]], rtol=1e-12)


def test_better_is_found_better_and_equal_is_not() -> None:
    good, poor = make_scores(0.8), make_scores(0.5)
    found = {d.metric: d for d in compare(poor, "trained", good, "trained", draws=200)}
    assert set(found) == {"miou", "f_miou", "macc", "ap", "ap50", "ap25"}
    assert found["miou"].decided
    assert found["miou"].low > 0
    assert found["miou"].better == 1.0
    same = {d.metric: d for d in compare(good, "trained", good, "trained", draws=200)}
    assert all(d.low == d.high == d.difference == 0 and d.better == 0.5 for d in same.values())


def test_the_seed_decides_the_draws_and_the_order_is_antisymmetric() -> None:
    a, b = make_scores(0.7, 1), make_scores(0.7, 2)
    forth, back = compare(a, "trained", b, "trained", draws=300), compare(b, "trained", a, "trained", draws=300)
    assert forth == compare(a, "trained", b, "trained", draws=300)
    assert forth[0] != compare(a, "trained", b, "trained", draws=300, seed=1)[0]
    for x, y in zip(forth, back):
        assert x.difference == pytest.approx(-y.difference)
        assert (x.low, x.high) == (pytest.approx(-y.high), pytest.approx(-y.low))
        assert x.better == pytest.approx(1 - y.better)


def test_the_interval_covers_as_it_says() -> None:
    """Two runs of equal quality: the 95 % interval leaves out 0 rarely (the draws are few, so a wide margin)."""
    missed = sum(
        compare(make_scores(0.7, 2 * i), "trained", make_scores(0.7, 2 * i + 1), "trained", draws=200)[0].decided
        for i in range(20)
    )
    assert missed <= 6


def test_what_cannot_be_compared() -> None:
    a, other = make_scores(0.7), make_scores(0.7)
    other.semantic["trained"]["toy/0"].counts[0, 0] += 1
    with pytest.raises(ConfigError, match=r"toy/0 was scored on another ground truth"):
        compare(a, "trained", other, "trained")
    with pytest.raises(ConfigError, match="share no scene"):
        compare(a, "trained", a, "random")
    with pytest.raises(ConfigError, match="label spaces"):
        compare(a, "trained", SceneScores(("x",)), "trained")


def test_counts_survive_the_file_and_merge(tmp_path) -> None:  # type: ignore[no-untyped-def]
    scores = make_scores(0.7)
    scores.write(tmp_path / "a.parquet")
    first = (tmp_path / "a.parquet").read_bytes()
    read = SceneScores.read(tmp_path / "a.parquet")
    read.write(tmp_path / "b.parquet")
    assert (tmp_path / "b.parquet").read_bytes() == first
    assert (read.total("trained").counts == scores.total("trained").counts).all()
    assert (
        read.evaluator("trained").average_precision().as_dict()
        == scores.evaluator("trained").average_precision().as_dict()
    )
    with pytest.raises(ConfigError, match=r"scene toy/0 is in two"):
        read.merge(scores)
    (tmp_path / "c.parquet").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"c.parquet: no readable counts"):
        SceneScores.read(tmp_path / "c.parquet")


def test_the_command(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name, quality in (("a", 0.5), ("b", 0.8)):
        path = tmp_path / f"{name}.json"
        scores = make_scores(quality)
        scores.write(scores_path(path))
        write_result(path, result_document("probe", "x", {}, {"rows": {"trained": {}}}))
    words = ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--draws", "100"]
    result = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "d.json")], standalone_mode=False)
    assert result.exception is None
    assert "| miou |" in result.output
    latex = CliRunner().invoke(cli, [*words, "--format", "latex"], standalone_mode=False)
    assert "\\toprule" in latex.output
    wrong = CliRunner().invoke(cli, [*words, "--row-b", "none"], standalone_mode=False)
    assert "has no row 'none'; it has trained" in str(wrong.exception)


def test_what_is_not_defined_is_a_dash_and_null(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Scenes that hold nothing but walls have no f-mIoU."""
    for name in ("a", "b"):
        scores = SceneScores(NAMES)
        truth = np.zeros(20, dtype=np.int64)
        scores.semantic["trained"] = {f"toy/{s}": scores.matrix().add(truth, truth) for s in range(2)}
        scores.write(scores_path(tmp_path / f"{name}.json"))
        write_result(tmp_path / f"{name}.json", result_document("probe", "x", {}, {"rows": {"trained": {}}}))
    words = [
        "compare",
        *(str(tmp_path / f"{n}.json") for n in "ab"),
        "--draws",
        "100",
        "--out",
        str(tmp_path / "d.json"),
    ]
    called = CliRunner().invoke(cli, words, standalone_mode=False)
    assert called.exception is None
    assert "| f_miou | – | – | – | – to – | – % of draws | 2 |" in called.output
    assert "nan" not in called.output
    entry = read_result(tmp_path / "d.json")["differences"]["f_miou"]
    assert entry | {"metric": "f_miou"} == {
        "metric": "f_miou", "a": None, "b": None, "low": None, "high": None, "better": None, "level": 0.95,
        "n_scenes": 2, "difference": None, "decided": False,
    }  # fmt: skip


def test_retrieval_draws_are_means_over_the_queries_of_the_drawn_scenes() -> None:
    rng = np.random.default_rng(0)
    scores = SceneScores((), gallery="scene")
    figures = {f"toy/{s}": {p: rng.random((3 + s, 4)) for p in ("noise", "turn")} for s in range(5)}
    scores.retrieval["encoder"] = {
        scene: {p: QuerySums.of(values) for p, values in held.items()} for scene, held in figures.items()
    }
    names = sorted(figures)
    picks = rng.integers(0, 5, (4, 5))
    for pick, row in zip(picks, _retrieval(scores, "encoder", names)(picks)):
        drawn = {p: np.concatenate([figures[names[i]][p] for i in pick]) for p in ("noise", "turn")}
        expected = np.mean([drawn[p].mean(axis=0) for p in drawn], axis=0)
        np.testing.assert_allclose(row[:4], expected)
        np.testing.assert_allclose(row[4:], [drawn["noise"][:, 0].mean(), drawn["turn"][:, 0].mean()])
    found = compare(scores, "encoder", scores, "encoder", draws=100)
    assert [d.metric for d in found] == [*FIGURES, "recall_at_1 noise", "recall_at_1 turn"]
    other = SceneScores((), gallery="split", retrieval=scores.retrieval)
    with pytest.raises(ConfigError, match="galleries"):
        compare(scores, "encoder", other, "encoder")
    fewer = {
        **scores.retrieval["encoder"],
        "toy/0": {"noise": QuerySums(2, (1.0,) * 4), "turn": QuerySums(3, (1.0,) * 4)},
    }
    with pytest.raises(ConfigError, match=r"toy/0 was scored on another ground truth"):
        compare(scores, "encoder", SceneScores((), gallery="scene", retrieval={"encoder": fewer}), "encoder")


def test_query_sums_survive_the_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    scores = make_scores(0.7, n_scenes=2)
    scores.retrieval["encoder"] = {
        "toy/0": {"noise": QuerySums(2, (1.0, 0.5, 2.0, 1.5)), "turn": QuerySums(1, (0.1,) * 4)}
    }
    scores.write(tmp_path / "a.parquet")
    read = SceneScores.read(tmp_path / "a.parquet")
    assert read.retrieval == scores.retrieval
    assert read.meta() == SceneScores.read(tmp_path / "a.parquet").meta()
    assert set(read.semantic["trained"]) == set(read.instances["trained"]) == {"toy/0", "toy/1"}
