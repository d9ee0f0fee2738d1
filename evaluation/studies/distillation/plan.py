"""From a study's settings to the commands that it runs, in the order in which they are worth most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import ConfigError, did_you_mean
from evaluation.studies.distillation.variants import COMMON, REFERENCE, SHORT, VARIANTS, Variant
from evaluation.studies.jobs import StudyJob, record_settings
from stage2_distill.settings import TrainConfig

#: Settings of stage 1 and of the student.
STAGE1 = Path(__file__).with_name("stage1.toml")
STUDENT = Path(__file__).with_name("student.toml")
#: Runs are cut into so many epochs, so that stages are the same shares of runs of any length.
EPOCHS = 20


@dataclass(frozen=True)
class Study:
    """How much is run. out: folder of everything. rooms: to train on; val: to score on. steps, short_steps: of the runs
    that the study is about, and of those that change one setting.
    """

    out: Path
    rooms: int = 48
    val: int = 8
    steps: int = 280
    short_steps: int = 60
    seeds: int = 3
    variants: tuple[str, ...] = ()

    def record_settings(self) -> None:
        """See `jobs.record_settings`."""
        configs = {path.name: path.read_text(encoding="utf-8") for path in (STAGE1, STUDENT)}
        mine = {"rooms": self.rooms, "val": self.val, "steps": self.steps, "short_steps": self.short_steps} | configs
        record_settings(self.out, mine)

    def chosen(self) -> list[Variant]:
        """Variants in table order, the reference always, its short twin beside short ones; ConfigError for an unknown
        name.
        """
        names = {v.name for v in VARIANTS}
        for name in self.variants:
            if name not in names:
                raise ConfigError(f"--variants {name}: no such variant" + did_you_mean(name, sorted(names)))
        named = [v for v in VARIANTS if not self.variants or v.name in self.variants]
        beside = {REFERENCE.name, *(v.start for v in named), *(SHORT.name for v in named if v.short)}
        return [v for v in VARIANTS if v in named or v.name in beside]

    def steps_of(self, variant: Variant) -> int:
        """Steps of its training, a whole number of them in every epoch."""
        return EPOCHS * max(1, (self.short_steps if variant.short else self.steps) // EPOCHS)

    def store(self, bits: str) -> Path:
        return self.out / (f"cache-{bits}-bits" if bits else "cache")

    def folder(self, variant: str, seed: int) -> Path:
        return self.out / "runs" / variant / f"seed{seed}"


def plan(study: Study) -> list[StudyJob]:
    """Data first; then seed by seed, so that a study that is stopped early has whole seeds."""
    chosen = study.chosen()
    jobs = [_rooms(study, "rooms", ())]
    jobs += [_cache(study, bits) for bits in dict.fromkeys(v.bits for v in chosen)]
    if any(v.adapt is not None for v in chosen):
        jobs += [_rooms(study, "shifted", ("--domain", "shifted")), _shifted_cache(study)]
    for seed in range(study.seeds):
        jobs += [_training(study, v, seed) if v.adapt is None else _adaptation(study, v, seed) for v in chosen]
        for start in dict.fromkeys(v.start for v in chosen if v.adapt is not None):
            jobs.append(_before_adaptation(study, start, seed))
    return jobs


def _rooms(study: Study, name: str, more: tuple[str, ...]) -> StudyJob:
    out = study.out / name
    total = str(study.rooms + study.val)
    command = ("chorus-data", "synth", "--out", str(out), "--rooms", total, "--val", str(study.val), "--seed", "1")
    return StudyJob(name, ((*command, *more),), (out / "manifest.parquet",))


def _cache(study: Study, bits: str) -> StudyJob:
    store = study.store(bits)
    return _stage1(study, _cache_name(bits), "rooms", store, ("--set", f"bits={bits}") if bits else ())


def _cache_name(bits: str) -> str:
    return f"cache of {bits} bits" if bits else "cache"


def _shifted_cache(study: Study) -> StudyJob:
    return _stage1(study, "shifted cache", "shifted", study.out / "shifted-cache", ())


def _stage1(study: Study, name: str, rooms: str, store: Path, more: tuple[str, ...]) -> StudyJob:
    manifest = study.out / rooms / "manifest.parquet"
    command = ("chorus-stage1", "run", "--manifest", str(manifest), "--store", str(store))
    mark = store / "complete"
    return StudyJob(name, ((*command, "--config", str(STAGE1), *more), ("touch", str(mark))), (mark,), (rooms,))


def _training(study: Study, variant: Variant, seed: int) -> StudyJob:
    folder, store = study.folder(variant.name, seed), study.store(variant.bits)
    manifest = study.out / "rooms" / "manifest.parquet"
    common = ("--manifest", str(manifest), "--store", str(store))
    values = {"third": EPOCHS / 3, "tenth": EPOCHS / 10}
    settings = [s.format(**values) for s in (*COMMON, *variant.settings)]
    settings += [
        f"epochs={EPOCHS}",
        f"data.samples_per_epoch={samples_per_epoch(study.steps_of(variant))}",
        f"seed={seed}",
    ]
    settings += ["threads=1", "data.workers=0"]
    train = ("chorus-stage2", "train", *common, "--split", "train", "--config", str(STUDENT))
    commands = [(*train, *_sets(settings), "--out", str(folder / "student"))]
    results = []
    if variant.zero_shot:
        results.append(folder / "zero_shot.json")
        commands.append(_zero_shot(common, folder / "student", results[-1], variant.tta_rotations))
    for points in variant.points:
        results.append(folder / f"probe_{points}.json")
        probe = ("chorus-eval", "probe", *common, "--train-split", "train", "--split", "val")
        commands.append(
            (*probe, "--encoder", str(folder / "student"), "--points-per-scene", str(points), "--seed", str(seed),
             "--out", str(results[-1]))
        )  # fmt: skip
    needs = ("rooms", _cache_name(variant.bits))
    return StudyJob(f"{variant.name} seed {seed}", tuple(commands), tuple(results), needs)


def _adaptation(study: Study, variant: Variant, seed: int) -> StudyJob:
    assert variant.adapt is not None
    folder = study.folder(variant.name, seed)
    common = _shifted(study)
    start = study.folder(variant.start, seed) / "student"
    # as many rooms as a short training sees, two a step where that takes four
    settings = [*variant.adapt, f"data.samples_per_epoch={samples_per_epoch(study.steps_of(SHORT))}", f"seed={seed}"]
    settings += [f"epochs={EPOCHS}", "threads=1", "data.workers=0"]
    adapt = ("chorus-stage2", "adapt", *common, "--split", "train", "--student", str(start))
    commands = ((*adapt, *_sets(settings), "--out", str(folder / "student")),)
    result = folder / "shifted.json"
    scored = _zero_shot(common, folder / "student", result)
    needs = ("shifted", "shifted cache", f"{variant.start} seed {seed}")
    return StudyJob(f"{variant.name} seed {seed}", (*commands, scored), (result,), needs)


def _before_adaptation(study: Study, start: str, seed: int) -> StudyJob:
    folder = study.folder(start, seed)
    result = folder / "shifted.json"
    needs = ("shifted", "shifted cache", f"{start} seed {seed}")
    scored = _zero_shot(_shifted(study), folder / "student", result)
    return StudyJob(f"{start} before adaptation seed {seed}", (scored,), (result,), needs)


def _shifted(study: Study) -> tuple[str, ...]:
    return ("--manifest", str(study.out / "shifted" / "manifest.parquet"), "--store", str(study.out / "shifted-cache"))


def _zero_shot(common: Sequence[str], student: Path, out: Path, tta_rotations: int = 1) -> tuple[str, ...]:
    command = ("chorus-eval", "zero-shot", *common, "--split", "val", "--encoder", str(student))
    return (*command, "--tta-rotations", str(tta_rotations), "--out", str(out))


def samples_per_epoch(steps: int) -> int:
    """Rooms per epoch of a training of so many steps, in whole batches of the student's size."""
    return load_config(TrainConfig, STUDENT, ()).batch_size * (steps // EPOCHS)


def _sets(settings: Sequence[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]
