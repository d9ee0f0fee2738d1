"""What the study compares. A variant is a small difference in settings; a finding is a statement that it can hold or
break.

The reference is what student.toml and COMMON say, with all three kinds of teachers; its short twin has language and
generalist. Variants change nothing but what their name says.
"""

from __future__ import annotations

from dataclasses import dataclass

from stage2_distill.data.augment import AugmentConfig

TEXT, DENSE, OBJECTS = "embedded-text", "embedded-dense", "embedded-objects"


def as_language(teacher: str) -> tuple[str, ...]:
    """Settings that match `teacher` as student.toml matches the language teacher, with SmoothL1."""
    own = (
        "cosine_weight=0.1",
        "smooth_l1_weight=0.1",
        "prototypes.weight=1",
        "prototypes.temperature=0.12",
        "prototypes.balance=0.5",
    )
    return tuple(f"teachers.{teacher}.{setting}" for setting in own)


#: The object-aware teacher, where it takes part.
OBJECT_AWARE = (f"teachers.{OBJECTS}.weight=1", *as_language(OBJECTS))
#: Weight of the generalist in full runs of all three. It is a classical descriptor: at 0.1, as in short runs, it takes
#: more from a trunk that knows something than it gives (docs/experiments/study.md).
GENERALIST_OF_THREE = f"teachers.{DENSE}.weight=0.02"

#: Weight of the label-free contrast from masks on the generalist's head. The paper gives no weight.
MASKS = (f"teachers.{DENSE}.masks.weight=0.1", f"teachers.{DENSE}.masks.levels=['part']")

#: student.toml leaves SmoothL1 out of the language teacher's match to learn faster; the study asks about both losses.
BOTH_LOSSES = (f"teachers.{TEXT}.cosine_weight=0.1", f"teachers.{TEXT}.smooth_l1_weight=0.1")

#: Runs of some hundred steps underfit: of student.toml's augmentations rotations, flips, scale and colour shifts are
#: left. The two made for 3DGS come back, as often as the trainer makes them by default, in the row that asks about
#: them.
PERTURBATIONS = {k: AugmentConfig.model_fields[f"{k}_p"].default for k in ("covariance_noise", "inflate")}
FEW_AUGMENTATIONS = (
    *(f"augment.{name}_p=0" for name in (*PERTURBATIONS, "color_jitter", "dropout", "contrast")),
    "augment.jitter_m=0",
)

#: What all trainings have in common beside student.toml.
COMMON = (*BOTH_LOSSES, *FEW_AUGMENTATIONS, f"teachers.{OBJECTS}.weight=0")

#: Adaptation: language and generalist as in short trainings, whole rooms, a few views of each.
ADAPT = (
    *as_language(TEXT),
    f"teachers.{DENSE}.weight=0.1",
    f"teachers.{OBJECTS}.weight=0",
    "data.max_points=0",
    "data.views=3",
    "optim.lr=2e-3",
)


@dataclass(frozen=True)
class Variant:
    """One row of the study.

    Attributes:
        settings: --set of `chorus-stage2 train`.
        short: trained for the study's short length, beside a reference of that length: enough to see a large effect of
            one setting. What the study is about is trained in full.
        bits: of the cache that it learns from; "" = that of stage1.toml beside this file.
        adapt: settings of `chorus-stage2 adapt` where the student of the variant `start` is adapted instead of a fresh
            one trained; both are then scored in the shifted domain.
        points: labelled Gaussians per room for the linear probe; several give several rows, none is no probe.
        zero_shot: whether it has a text-aligned head.
    """

    name: str
    group: str
    says: str
    settings: tuple[str, ...] = ()
    short: bool = False
    bits: str = ""
    adapt: tuple[str, ...] | None = None
    start: str = "reference"
    points: tuple[int, ...] = ()
    zero_shot: bool = True

    @property
    def tta_rotations(self) -> int:
        """Test-time rotations of zero-shot: in full those of the demo, one where small differences are asked for."""
        return 1 if self.short else 5


#: Share of a room's 24,000 Gaussians that the probe sees labels of.
LABEL_SHARES = {1: 240, 5: 1200, 10: 2400, 20: 4800}
#: For the rows that are compared by probing: 5 %.
PROBE = (LABEL_SHARES[5],)

REFERENCE = Variant(
    "reference", "teachers", "language + generalist + object-aware", (*OBJECT_AWARE, GENERALIST_OF_THREE),
    points=tuple(LABEL_SHARES.values()),
)  # fmt: skip
SHORT = Variant("short", "short runs", "language + generalist", short=True, points=PROBE)

VARIANTS: tuple[Variant, ...] = (
    REFERENCE,
    Variant("language", "teachers", "language only", (f"teachers.{DENSE}.weight=0",), points=PROBE),
    Variant("adapted", "adaptation", "reference adapted to the shifted domain", adapt=ADAPT),
    Variant("adapted-lora", "adaptation", "the same by low-rank adapters", adapt=(*ADAPT, "lora.rank=8")),
    SHORT,
    Variant("short-adapted", "adaptation", "short run adapted to the shifted domain", adapt=ADAPT, start="short"),
    Variant("object-aware", "teachers", "+ object-aware", OBJECT_AWARE, short=True, points=PROBE),
    Variant(
        "generalist", "trunk", "generalist only (a branch of its own)", (f"teachers.{TEXT}.weight=0",),
        short=True, points=PROBE, zero_shot=False,
    ),
    Variant(
        "cosine", "losses", "cosine only",
        (f"teachers.{TEXT}.smooth_l1_weight=0", f"teachers.{DENSE}.smooth_l1_weight=0"), short=True
    ),
    Variant(
        "no-prototypes", "losses", "matching alone, without the softmax over prototypes",
        tuple(f"teachers.{TEXT}.{term}" for term in ("prototypes.weight=0", "cosine_weight=1", "smooth_l1_weight=1")),
        short=True,
    ),
    Variant(
        "no-phi-s", "standardisation", "losses in the teachers' own spaces, no PHI-S",
        tuple(f"teachers.{t}.{k}_space=teacher" for t in (TEXT, DENSE) for k in ("cosine", "smooth_l1")), short=True,
    ),
    Variant(
        "3dgs-augmentation", "augmentation", "with the two perturbations made for 3DGS",
        tuple(f"augment.{name}_p={p}" for name, p in PERTURBATIONS.items()), short=True,
    ),
    Variant(
        "staged", "staging", "language first, the generalist joins after a third",
        (f"teachers.{DENSE}.start={{third}}", f"teachers.{DENSE}.warmup={{tenth}}"), short=True,
    ),
    Variant("mask-contrast", "contrast", "with the label-free contrast from masks on the generalist's head", MASKS,
            short=True, points=PROBE),
    Variant(
        "label-contrast", "contrast", "with the label-based contrast on the language head (sees labels)",
        (f"teachers.{TEXT}.labels.weight=0.02",), short=True,
    ),
    *(Variant(f"bits-{b}", "bits", f"cache at {b} bits per channel", short=True, bits=b) for b in ("2", "8")),
)  # fmt: skip


@dataclass(frozen=True)
class StudyFinding:
    """`better` should score more than `worse` in `measure` ("zero_shot": f-mIoU, "probe_5": mIoU with 5 % of
    the labels, "shifted": f-mIoU in the shifted domain).
    """

    says: str
    better: str
    worse: str
    measure: str


FINDINGS: tuple[StudyFinding, ...] = (
    StudyFinding(
        "a student beats the lifted teacher on rooms it never saw", "reference", "lifted teacher", "zero_shot"
    ),
    StudyFinding("three teachers in one trunk beat language alone in zero-shot", "reference", "language", "zero_shot"),
    StudyFinding("three teachers in one trunk beat language alone in probing", "reference", "language", "probe_5"),
    StudyFinding("training beats random weights at 1 % of labels", "reference", "random weights", "probe_1"),
    StudyFinding("adaptation helps a short run in the shifted domain", "short-adapted", "short", "shifted"),
    StudyFinding("adaptation helps the reference in the shifted domain", "adapted", "reference", "shifted"),
    StudyFinding("low-rank adapters harm the reference less", "adapted-lora", "adapted", "shifted"),
    StudyFinding("one trunk beats the generalist branch in probing", "short", "generalist", "probe_5"),
    StudyFinding("the object-aware teacher helps a short run in zero-shot", "object-aware", "short", "zero_shot"),
    StudyFinding("the object-aware teacher helps a short run in probing", "object-aware", "short", "probe_5"),
    StudyFinding("contrast from masks helps probing", "mask-contrast", "short", "probe_5"),
    StudyFinding("both losses beat cosine alone", "short", "cosine", "zero_shot"),
    StudyFinding("prototypes help in zero-shot", "short", "no-prototypes", "zero_shot"),
    StudyFinding("PHI-S helps", "short", "no-phi-s", "zero_shot"),
    StudyFinding("perturbations made for 3DGS help", "3dgs-augmentation", "short", "zero_shot"),
    StudyFinding("staging helps", "staged", "short", "zero_shot"),
    StudyFinding("label-based contrast helps zero-shot", "label-contrast", "short", "zero_shot"),
    StudyFinding("2 bits per channel cost quality", "short", "bits-2", "zero_shot"),
)
