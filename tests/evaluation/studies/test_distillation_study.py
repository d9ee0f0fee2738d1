"""The study driver: plans, goes on where it stopped, judges findings, and keeps people's text on its page."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest

from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import ChorusError, ConfigError
from evaluation.studies.distillation.plan import EPOCHS, STUDENT, Study, plan
from evaluation.studies.distillation.table import BEGIN, END, figures, judged, read_scores, spread, write_page
from evaluation.studies.distillation.variants import FINDINGS, REFERENCE, SHORT, VARIANTS, StudyFinding
from evaluation.studies.jobs import StudyJob, log_path, run_jobs
from stage2_distill.settings import AdaptConfig, TrainConfig


def settings_of(command: tuple[str, ...]) -> list[str]:
    return [b for a, b in itertools.pairwise(command) if a == "--set"]


def test_every_variant_is_a_valid_difference_from_the_demo(tmp_path: Path) -> None:
    study = Study(tmp_path, steps=240, short_steps=60)
    trained = {}
    for job in plan(study):
        for command in job.commands:
            if command[:2] == ("chorus-stage2", "train"):
                trained[job.name] = load_config(TrainConfig, STUDENT, settings_of(command))
            if command[:2] == ("chorus-stage2", "adapt"):
                load_config(AdaptConfig, None, [*settings_of(command), "student=x"])
    assert len(trained) == 3 * sum(v.adapt is None for v in VARIANTS)
    reference, short = trained["reference seed 0"], trained["short seed 0"]
    for config, steps in ((reference, 240), (short, 60)):
        assert config.epochs * config.data.samples_per_epoch // config.batch_size == steps
    assert reference.model_copy(update={"seed": 1}) == trained["reference seed 1"]
    for variant in VARIANTS:
        if variant.adapt is None and variant not in (REFERENCE, SHORT) and not variant.bits:
            twin = short if variant.short else reference
            assert trained[f"{variant.name} seed 0"] != twin, variant.name
            assert trained[f"{variant.name} seed 0"].data == twin.data, variant.name
    staged = trained["staged seed 0"].teachers["embedded-dense"]
    assert (staged.start, staged.warmup) == (EPOCHS / 3, EPOCHS / 10)


def test_plan_has_whole_seeds_first_and_no_unmet_need(tmp_path: Path) -> None:
    jobs = plan(Study(tmp_path, seeds=2, variants=("adapted", "bits-2")))
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    for place, job in enumerate(jobs):
        assert set(job.needs) <= set(names[:place])
    seeds = [name[-1] for name in names if " seed " in name]
    assert seeds == sorted(seeds)
    for name in ("reference", "short"):  # what the two named are compared with
        assert {n for n in names if n.startswith(f"{name} seed")} == {f"{name} seed 0", f"{name} seed 1"}
    assert "reference before adaptation seed 1" in names
    assert "short before adaptation seed 1" not in names
    assert "short before adaptation seed 1" in [job.name for job in plan(Study(tmp_path, variants=("short-adapted",)))]
    with pytest.raises(ConfigError, match="--variants stagd: no such variant; did you mean 'staged'"):
        plan(Study(tmp_path, variants=("stagd",)))


def test_findings_name_rows_that_the_study_has() -> None:
    known = {v.name for v in VARIANTS} | {"lifted teacher", "random weights"}
    for finding in FINDINGS:
        assert {finding.better, finding.worse} <= known


def job(tmp_path: Path, name: str, code: str, needs: tuple[str, ...] = ()) -> StudyJob:
    result = tmp_path / f"{name}.out"
    commands = ((sys.executable, "-c", code), ("touch", str(result)))
    return StudyJob(name, commands, (result,), needs)


def test_jobs_wait_for_their_needs_and_finished_ones_are_skipped(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    jobs = [
        job(tmp_path, "first", f"open({str(mark)!r}, 'a').write('a')"),
        job(tmp_path, "second", f"assert open({str(mark)!r}).read() == 'a'", ("first",)),
    ]
    for _ in range(2):
        outcome = run_jobs(jobs, tmp_path / "logs", workers=2, minutes=5)
        assert (outcome.done, outcome.left) == (2, 0)
    assert mark.read_text() == "a"
    late = run_jobs([job(tmp_path, "third", "1")], tmp_path / "logs", workers=1, minutes=-1)
    assert (late.done, late.left) == (0, 1)


def test_a_failed_command_is_named_with_its_log(tmp_path: Path) -> None:
    bad = job(tmp_path, "bad one", "raise SystemExit('no luck')")
    with pytest.raises(ChorusError, match=r"study: bad one: .* failed \(no luck\); see .*bad-one.log"):
        run_jobs([bad], tmp_path / "logs", workers=1, minutes=5)
    assert "no luck" in log_path(tmp_path / "logs", bad).read_text()


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    Study(tmp_path, steps=10).record_settings()
    Study(tmp_path, steps=10, seeds=9).record_settings()  # more seeds are more of the same
    with pytest.raises(ConfigError, match=r"other settings \(steps: 10, now 20\); give another --out"):
        Study(tmp_path, steps=20).record_settings()


def test_findings_need_every_seed() -> None:
    finding = StudyFinding("a beats b", "a", "b", "probe_5")
    for a, b, verdict in (
        ([0.5, 0.6], [0.4, 0.5], "holds"),
        ([0.3, 0.6], [0.4, 0.5], "undecided"),
        ([0.3, 0.3], [0.4, 0.5], "does not hold"),
        ([0.9], [0.1], "one seed only"),
    ):
        scores = {("a", "probe_5"): dict(enumerate(a)), ("b", "probe_5"): dict(enumerate(b))}
        assert judged(finding, scores)[0] == verdict
    assert spread({0: 0.5, 1: 0.6}) == "55.0 ± 7.1"
    assert (spread({0: 0.5}), spread({})) == ("50.0", "-")


def test_results_become_a_table_and_the_text_around_it_stays(tmp_path: Path) -> None:
    study = Study(tmp_path / "runs", seeds=2, variants=("language",))
    for seed, shift in enumerate((0.0, 0.02)):
        for name, value in (("reference", 0.3), ("language", 0.2)):
            folder = study.folder(name, seed)
            folder.mkdir(parents=True)
            scored = {"f_miou": value + shift, "miou": value + 0.1}
            rows = {"student": scored, "lifted_teacher": {"f_miou": 0.25, "miou": 0.4}}
            (folder / "zero_shot.json").write_text(json.dumps({"rows": rows}))
    assert read_scores(study)[("reference", "zero_shot")] == {0: 0.3, 1: pytest.approx(0.32)}
    body = figures(study, "a command")
    assert "| teachers | language only | 280 | 21.0 ± 1.4 | 30.0 ± 0.0 | - | - | 2 |" in body
    assert "| three teachers in one trunk beat language alone in zero-shot | holds | +10.0 (+10.0, +10.0) |" in body
    page = tmp_path / "study.md"
    page.write_text(f"# Study\nwhy\n{BEGIN}\nstale figures\n{END}\nbecause\n")
    write_page(page, body)
    write_page(page, body)
    text = page.read_text()
    assert text.startswith("# Study\nwhy\n")
    assert text.endswith(f"{END}\nbecause\n")
    assert "stale figures" not in text
    assert text.count(body) == 1
    page.write_text("nothing")
    with pytest.raises(ConfigError, match="put both lines back"):
        write_page(page, body)
