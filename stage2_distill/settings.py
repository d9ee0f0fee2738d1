"""TrainConfig: everything that decides what a training run computes. Written beside its output; the same config gives
the same run.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from chorus_common.runtime.config import Config
from stage2_distill.data.augment import AugmentConfig
from stage2_distill.engine.settings import EngineSettings, OptimSettings

#: Where a teacher's predictions live; see `TeacherSettings.space`.
Space = Literal["standardised", "unit", "plain"]


class EncoderSettings(Config):
    """Which encoder is trained.

    Attributes:
        preset: name of a preset of `stage2_distill.encoder`.
        overrides: fields of `EncoderConfig` that differ from the preset, e.g. enc_channels.
        weights: a checkpoint to start from ("" = fresh weights); preset and overrides are then left alone.
    """

    preset: str = "chorus-lite"
    overrides: dict[str, Any] = Field(default_factory=dict)
    weights: str = ""


class LossSchedule(Config):
    """When a term of the loss is active, and how much it weighs then.

    Attributes:
        weight: factor of the term; 0 = the term does not exist and costs nothing.
        start, warmup, end: active from epoch `start`, weight rising linearly over `warmup` epochs, gone from epoch
            `end` (None: stays). Epochs are counted from 0 and may be fractions.
    """

    weight: float = Field(default=1.0, ge=0)
    start: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.0, ge=0)
    end: float | None = None

    @model_validator(mode="after")
    def _ends_after_start(self) -> LossSchedule:
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"ends at epoch {self.end:g}, before it starts at {self.start:g}")
        return self


class MaskContrastSettings(LossSchedule):
    """Label-free contrast from a mask teacher's masks (losses/mask_contrast.py); weight is eta_t, times lambda_t.

    Attributes:
        teacher: mask teacher of the stores; "" = the only one.
        levels: granularities to draw from, one per view; none named: the coarsest that the stores have, since nested
            levels contradict each other within one head.
        views: views drawn per sample. pixels: cells drawn per view. per_mask: cells drawn per mask at most, so that a
            wall's mask does not own its view.
        purity: share of a cell's pixels that must belong to one mask. cover: share of a cell's blending weight that the
            sample's Gaussians must hold: what a crop has cut away is not to be judged by what is left.
        temperature: of the softmax.
    """

    weight: float = Field(default=0.0, ge=0)
    teacher: str = ""
    levels: tuple[str, ...] = ()
    views: int = Field(default=4, ge=1)
    pixels: int = Field(default=256, ge=4)
    per_mask: int = Field(default=16, ge=2)
    purity: float = Field(default=0.8, gt=0.5, le=1)
    cover: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=0.1, gt=0)


class LabelContrastSettings(LossSchedule):
    """Contrast of ground-truth groups (losses/label_contrast.py). It sees labels: results of such a run are not
    label-free. Scenes without labels are left out of it.

    Attributes:
        groups: "classes" (as in SceneSplat) or "instances". Both are pooled per scene; SceneSplat pools classes over
            whatever shares a batch.
        rows: which voxels are pooled: all "labelled" ones, or those alone that the teacher has "targets" for (as in
            SceneSplat).
        min_rows: voxels that a group needs. temperature: of the softmax. Both as in SceneSplat.
    """

    weight: float = Field(default=0.0, ge=0)
    groups: Literal["classes", "instances"] = "classes"
    rows: Literal["labelled", "targets"] = "labelled"
    min_rows: int = Field(default=100, ge=2)
    temperature: float = Field(default=0.2, gt=0)


class PrototypeSettings(LossSchedule):
    """Which of the teacher's typical features a Gaussian has (losses/prototypes.py); weight is eta_t, times lambda_t.

    Attributes:
        count: prototypes. temperature: of the softmax over them.
        balance: 0 weighs Gaussians alike, 1 weighs prototypes alike.
        scenes, per_scene: training scenes, and Gaussians of each, whose lifted features are clustered.
    """

    weight: float = Field(default=0.0, ge=0)
    count: int = Field(default=64, ge=2)
    temperature: float = Field(default=0.07, gt=0)
    balance: float = Field(default=0.0, ge=0, le=1)
    scenes: int = Field(default=64, ge=1)
    per_scene: int = Field(default=1024, ge=1)


class TeacherSettings(LossSchedule):
    """How one teacher is matched, and when (`weight` is lambda_t of the total loss).

    Attributes:
        space: where predictions and targets are compared: "standardised" by PHI-S; "unit" = the teacher's own space,
            both normalised to length 1; "plain" = the teacher's own as it is. The last two are the released Chorus's.
            None: as the student to start from has it, "standardised" for a fresh head.
        min_norm: targets that are shorter in the teacher's own space, before any normalisation, do not count (0 = all
            count). The released Chorus takes 0.01 where a data set brings no mask of its own.
        datasets: the only data sets that this teacher is asked about; none named: all.
        cosine_weight, smooth_l1_weight: weights of 1 - cosine and of SmoothL1.
        beta: where SmoothL1 turns linear, in standard deviations of a channel.
        cosine_space: "standardised" measures directions around the teacher's mean; "teacher" as the teacher's users do,
            with the mean put back.
        smooth_l1_space: "standardised" (all teachers weigh alike) or the teacher's own, as if there were no PHI-S.
        visibility_half: Gaussians weigh e / (e + visibility_half) by their visibility e (sum of blending weights); 0
            weighs all alike.
        prototypes: softmax over typical features of this teacher, beside the distillation loss. masks, labels:
            contrastive terms on this teacher's head. Their stages count within the teacher's own.
    """

    space: Space | None = None
    min_norm: float = Field(default=0.0, ge=0)
    datasets: tuple[str, ...] = ()
    cosine_weight: float = Field(default=1.0, ge=0)
    smooth_l1_weight: float = Field(default=1.0, ge=0)
    beta: float = Field(default=1.0, gt=0)
    cosine_space: Literal["standardised", "teacher"] = "standardised"
    smooth_l1_space: Literal["standardised", "teacher"] = "standardised"
    visibility_half: float = Field(default=0.0, ge=0)
    prototypes: PrototypeSettings = PrototypeSettings()
    masks: MaskContrastSettings = MaskContrastSettings()
    labels: LabelContrastSettings = LabelContrastSettings()


class ChunkSettings(Config):
    """The grid of overlapping boxes that `crop = "chunks"` draws from (data/crops.py). Defaults are the released
    Chorus's.

    Attributes:
        size, stride: sides of a box in x and y, and how far neighbouring boxes are apart, metres.
        heights: data set -> height of its boxes, metres, cut at the same stride (Matterport's several floors: 4); the
            boxes of other data sets are as high as their scenes.
        min_rows: Gaussians that a box needs; a scene without such a box gives its fullest one.
    """

    size: float = Field(default=6.0, gt=0)
    stride: float = Field(default=4.0, gt=0)
    heights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    min_rows: int = Field(default=50_000, ge=1)

    @model_validator(mode="after")
    def _covers(self) -> ChunkSettings:
        if self.stride > min([self.size, *self.heights.values()]):
            raise ValueError(f"boxes at a stride of {self.stride:g} m would leave gaps; no side may be shorter")
        return self


class DataSettings(Config):
    """How samples are drawn from the scene stores.

    Attributes:
        samples_per_epoch: scenes (crops) per epoch; 0 = every scene once. Rounded up to whole batches.
        weights: data set -> share of the samples; empty = in proportion to scenes.
        crop, max_points: "sphere" (nearest Gaussians to a drawn one), "rows" (a range of Morton order) or "chunks" (a
            box of the scene's grid of boxes, see `chunks`), at most max_points Gaussians (0 = all).
        chunks: the grid of boxes.
        thin: a crop keeps one Gaussian, drawn anew for every sample, of each cell of this side in metres, of those with
            targets where there are any (0 = all Gaussians).
        max_voxels: at most so many voxels of the augmented sample, the nearest to a drawn one, which is centred anew in
            x and y (0 = all): the released Chorus crops last.
        min_weight, min_views: visibility below which a Gaussian is no target.
        views: lift from (or render to) a random subset of so many views, drawn anew for every sample (0 = all views;
            only then are targets remembered).
        max_targets: voxels (or cells) of a sample that each teacher is matched on, drawn anew for every sample
            (0 = all): neighbours say much the same, and heads on a fine grid cost more than the trunk.
        voxel_target: lifted objective: a voxel's target is the "mean" of its Gaussians by visibility, or that of the
            "member" which is its input, whose label it then has, too.
        cover: rendered objective: share of a cell's blending weight that the sample must hold to be asked about it.
        mix_p: probability that half of a sample's Gaussians come from a second scene laid over the first.
        points_p: probability that a sample is fed as a point cloud, without opacities, rotations and scales; 1 trains
            for point clouds alone, less one encoder for both (which needs encoder.overrides.inputs.indicator).
        memory_mb: how much lifted targets and scenes may occupy in memory.
        workers: threads that prepare samples ahead (0 = none); prefetch: how many batches they may be ahead.
    """

    samples_per_epoch: int = Field(default=0, ge=0)
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    crop: Literal["sphere", "rows", "chunks"] = "sphere"
    max_points: int = Field(default=200_000, ge=0)
    chunks: ChunkSettings = ChunkSettings()
    thin: float = Field(default=0.0, ge=0)
    max_voxels: int = Field(default=0, ge=0)
    min_weight: float = Field(default=0.05, ge=0)
    min_views: int = Field(default=1, ge=1)
    views: int = Field(default=0, ge=0)
    max_targets: int = Field(default=0, ge=0)
    voxel_target: Literal["mean", "member"] = "mean"
    cover: float = Field(default=0.5, ge=0, le=1)
    mix_p: float = Field(default=0.0, ge=0, le=1)
    points_p: float = Field(default=0.0, ge=0, le=1)
    memory_mb: int = Field(default=4096, ge=0)
    workers: int = Field(default=1, ge=0, le=64)
    prefetch: int = Field(default=4, ge=1)


class LoraSettings(Config):
    """Low-rank adapters (Hu et al. 2021) in the encoder's linear layers; everything else is frozen but for fresh heads.

    Attributes:
        rank: of each adapter; 0 = no adapters, all weights are trained. alpha: the update is scaled by alpha / rank.
        dropout: probability that an adapter does not see one of its inputs. Its draws are each process's own.
        modules: names of the linear layers that get one ("qkv": the attention's); none named: all linear layers.
    """

    rank: int = Field(default=0, ge=0)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    modules: tuple[str, ...] = ()


Objective = Literal["lifted", "rendered"]


class TrainConfig(EngineSettings):
    """A training run: what the loop needs (`EngineSettings`), and what is its own.

    Attributes:
        epochs: length of the run.
        batch_size: scenes per optimiser step, over all processes.
        student: folder of a student to start from, encoder and projectors ("" = a fresh one as `encoder` says). It gets
            a fresh head for every teacher that `teachers` names and it lacks.
        lora: how much of it may change.
        objective: "lifted" matches Gaussians with lifted features; "rendered" matches pictures: the student's features
            are rendered through the cached matrix and compared with the teachers' cells.
        teachers: teacher name -> settings; empty = every dense teacher of the stores with default settings (of those
            that the student to start from knows).
        balance: "adaloss" divides each teacher's loss by its own running mean (decay balance_decay), as RADIO's AdaLoss
            does: all teachers then pull alike, whatever their scale.
        projector_hidden: width of the projectors' hidden layer.
        projector_layout: where their LayerNorm stands, "norm_hidden" (on the hidden layer) or "norm_input" (before the
            MLP, as in the released Chorus, whose hidden layer is 4 times the latent); or "identity": no projector at
            all, as in SceneSplat, whose latent is as wide as its teacher.
        validate_every: epochs between passes over the validation scenes (0 = only after the last one).
        zero_shot: whether validation also asks text-aligned teachers' heads for the scenes' classes by their names.
        best_by: what the best student has: the lowest distillation loss, or the highest zero-shot f-mIoU.
    """

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=2, ge=1)
    encoder: EncoderSettings = EncoderSettings()
    student: str = ""
    lora: LoraSettings = LoraSettings()
    objective: Objective = "lifted"
    teachers: dict[str, TeacherSettings] = Field(default_factory=dict)
    balance: Literal["none", "adaloss"] = "none"
    balance_decay: float = Field(default=0.99, ge=0, lt=1)
    projector_hidden: int = Field(default=512, ge=1)
    projector_layout: Literal["norm_hidden", "norm_input", "identity"] = "norm_hidden"
    data: DataSettings = DataSettings()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimSettings = OptimSettings()
    validate_every: int = Field(default=0, ge=0)
    zero_shot: bool = False
    best_by: Literal["distillation", "zero_shot"] = "distillation"

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        for name, teacher in self.teachers.items():
            if teacher.cosine_weight == 0 and teacher.smooth_l1_weight == 0:
                raise ValueError(f"teacher {name} has cosine_weight = smooth_l1_weight = 0: nothing to match")
        if self.teachers and not any(t.start == 0 and t.weight > 0 for t in self.teachers.values()):
            raise ValueError("no teacher is active in the first epoch; let one start at 0 with a positive weight")
        if self.best_by == "zero_shot" and not self.zero_shot:
            raise ValueError('best_by = "zero_shot" needs zero_shot = true')
        if self.data.voxel_target == "member" and self.objective == "rendered":
            raise ValueError('voxel_target = "member" is about lifted targets; objective = "rendered" has none')
        if self.lora.rank > 0 and not self.student:
            raise ValueError("lora adapts a trained student; name its folder as student")
        return self


class AdaptDataSettings(DataSettings):
    """Defaults of adaptation."""

    views: int = Field(default=6, ge=0)


class AdaptOptimSettings(OptimSettings):
    """Defaults of adaptation."""

    lr: float = Field(default=5e-4, gt=0)
    schedule: Literal["onecycle", "cosine", "constant"] = "cosine"


class AdaptConfig(TrainConfig):
    """Adaptation of a student to another domain: a training run with other defaults.

    Pictures are matched, a few views per sample; the learning rate is low, because weights start trained.
    """

    epochs: int = Field(default=20, ge=1)
    objective: Objective = "rendered"
    data: AdaptDataSettings = AdaptDataSettings()
    optim: AdaptOptimSettings = AdaptOptimSettings()
