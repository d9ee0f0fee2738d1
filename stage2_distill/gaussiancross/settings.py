"""GaussianCrossConfig: everything that decides what a pretraining run computes.

GaussianCross's pretraining code, loss weights, grid, masking and schedule are not published. Each default below is our
choice; where the ancestor that it acknowledges (PonderV2) has a value, the comment says so.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from chorus_common.runtime.config import Config
from stage2_distill.engine.settings import EngineSettings, OptimSettings
from stage2_distill.gaussiancross.rendering import Backend
from stage2_distill.settings import EncoderSettings


class HeadSettings(Config):
    """From voxel features to Gaussians.

    Attributes:
        grid: cells of the cuboid per axis (PonderV2: 128 x 128 x 32, for the GPU).
        width, blocks: channels and residual blocks of the dense 3D network on the grid.
        features: width F of the feature that each Gaussian carries and that is rendered.
        max_offset: how far a centre may move from its voxel's or its cell's centre, in voxels or cells.
        min_scale, max_scale: range of the standard deviations, in voxels or cells.
        voxel_opacity_start, opacity_start: opacity before training, where points are and in empty cells.
        min_opacity, max_gaussians: pruning; Gaussians below min_opacity are left out, and of a scene at most the
            max_gaussians most opaque ones are rendered (a room has about 100,000 voxels of 0.02 m).
    """

    grid: tuple[int, int, int] = (48, 48, 32)
    width: int = Field(default=32, ge=4)
    blocks: int = Field(default=2, ge=1)
    features: int = Field(default=16, ge=1)
    max_offset: float = Field(default=1.0, gt=0)
    min_scale: float = Field(default=0.1, gt=0)
    max_scale: float = Field(default=1.5, gt=0)
    voxel_opacity_start: float = Field(default=0.6, gt=0, lt=1)
    opacity_start: float = Field(default=0.1, gt=0, lt=1)
    min_opacity: float = Field(default=0.02, ge=0, lt=1)
    max_gaussians: int = Field(default=200_000, ge=1)

    @model_validator(mode="after")
    def _check(self) -> HeadSettings:
        if min(self.grid) < 2:
            raise ValueError("grid needs at least 2 cells per axis")
        if self.min_scale >= self.max_scale:
            raise ValueError("min_scale must be below max_scale")
        return self


class GaussianCrossLossSettings(Config):
    """The three attributes that are distilled, and how they are weighed. A weight of 0 leaves an attribute out.

    Attributes:
        appearance: rendered colour against RGB, L1.
        geometry: rendered depth against sensor depth, L1 in metres, and missing weight where a surface was measured.
        semantics: rendered feature, projected, against the cached teacher, 1 - cosine + SmoothL1.
        adaptive: divide each attribute's loss by its present value, so that all pull alike whatever their units: the
            uncertainty weighting of Kendall et al. (CVPR 2018) with its optimum put in. False: fixed weights
            (PonderV2's fixed ones are rgb 10, depth 1, semantic 0.1).
        contrast: weight of a cross-modal InfoNCE between rendered features and teacher features of the same cells. Our
            reading of the abstract's "cross-modal consistency"; no such term is visible in the published figure.
        temperature, contrast_cells: of that term; cells drawn per step.
    """

    appearance: float = Field(default=1.0, ge=0)
    geometry: float = Field(default=1.0, ge=0)
    semantics: float = Field(default=1.0, ge=0)
    adaptive: bool = True
    contrast: float = Field(default=0.0, ge=0)
    temperature: float = Field(default=0.1, gt=0)
    contrast_cells: int = Field(default=512, ge=2)

    @model_validator(mode="after")
    def _check(self) -> GaussianCrossLossSettings:
        if self.appearance + self.geometry + self.semantics + self.contrast == 0:
            raise ValueError("all weights are 0: nothing to learn")
        return self


class MaskSettings(Config):
    """Masking of input points: blocks of space disappear and must be rendered from what is left.

    Attributes:
        ratio: share of the blocks that hold points (PonderV2: 0.8 of voxels).
        block: edge of a block in metres.
    """

    ratio: float = Field(default=0.4, ge=0, lt=1)
    block: float = Field(default=0.5, gt=0)


class CaptureAugment(Config):
    """Augmentations under which the pictures stay true: the cameras move with the points. Colour and position noise
    disturb the input alone.

    Attributes:
        rotate_z: turn about z by any angle.
        flip_p: probability of a flip in x, and of one in y.
        scale: range of one isotropic factor.
        color_shift: largest shift of all colours, in [0, 1] units. color_jitter: standard deviation of noise on each.
        jitter_m: standard deviation of noise on positions, in metres.
    """

    rotate_z: bool = True
    flip_p: float = Field(default=0.5, ge=0, le=1)
    scale: tuple[float, float] = (0.9, 1.1)
    color_shift: float = Field(default=0.05, ge=0, le=1)
    color_jitter: float = Field(default=0.05, ge=0, le=1)
    jitter_m: float = Field(default=0.005, ge=0)


class CaptureDataSettings(Config):
    """How samples are drawn.

    Attributes:
        views: posed pictures per scene and step (PonderV2 and GaussianCross's loader: 5).
        pixels_per_cell: rendered pixels along the edge of a teacher's cell; the picture is the teachers' grid times
            this.
        max_points: Gaussians or points of a scene that are kept at most (0 = all), drawn anew for every sample.
        samples_per_epoch: scenes per epoch (0 = every scene once).
        memory_mb: how much pictures and teacher features may occupy in memory.
        workers, prefetch: threads that prepare samples ahead (0 = none), and how many batches.
    """

    views: int = Field(default=5, ge=1)
    pixels_per_cell: int = Field(default=2, ge=1)
    max_points: int = Field(default=0, ge=0)
    samples_per_epoch: int = Field(default=0, ge=0)
    memory_mb: int = Field(default=2048, ge=0)
    workers: int = Field(default=1, ge=0, le=64)
    prefetch: int = Field(default=2, ge=1)


class GaussianCrossConfig(EngineSettings):
    """A pretraining run: what the loop needs (`EngineSettings`), and what is its own.

    Attributes:
        epochs: length of the run. batch_size: scenes per step, over all processes.
        teachers: dense teachers of the stores to match (none named: all of them).
        projector_hidden: width of the projectors' hidden layer.
        rasterizer: "cpu", "gsplat", or "auto" for gsplat where the model is on a GPU.
    """

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=2, ge=1)
    encoder: EncoderSettings = EncoderSettings()
    teachers: tuple[str, ...] = ()
    projector_hidden: int = Field(default=128, ge=1)
    head: HeadSettings = HeadSettings()
    loss: GaussianCrossLossSettings = GaussianCrossLossSettings()
    mask: MaskSettings = MaskSettings()
    augment: CaptureAugment = CaptureAugment()
    data: CaptureDataSettings = CaptureDataSettings()
    optim: OptimSettings = OptimSettings()
    rasterizer: Backend = "auto"
