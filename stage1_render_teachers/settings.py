"""Settings of stage 1: `Stage1Config` holds what changes a number in the cache, `RunConfig` how the work is run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from chorus_common.cache.schema import MaskForm
from chorus_common.camera_io.view_list import VIEW_LIST
from chorus_common.cluster.settings import ClusterConfig
from chorus_common.features.quantise import Bits
from chorus_common.manifest import ManifestRow
from chorus_common.runtime.config import Config
from chorus_common.scene_check.settings import AlignmentSettings
from stage1_render_teachers.teachers.protocol import teacher_name

UnitFloat = Annotated[float, Field(ge=0, le=1)]


class CalibrationConfig(Config):
    """From how much of the manifest the PHI-S standardisers are fitted."""

    scenes: int = Field(default=16, ge=1, description="scenes drawn from the manifest; all of it where it is smaller")
    views: int = Field(default=8, ge=1, description="views drawn from each of them")
    tokens: int = Field(default=0, ge=0, description="tokens drawn per view, 0 = all")


class Stage1Config(Config):
    """Everything that changes a byte of a scene's cache; its hash is part of the scene's fingerprint."""

    teachers: tuple[str, ...] = Field(
        default=("embedded:text", "embedded:dense", "embedded:masks"),
        description="specs, or NAME=SPEC each; see docs/guide/teachers.md",
    )
    width: int = Field(
        default=640, ge=1, le=8192, description="pixels; a scene's own cameras fill this picture, nothing is stretched"
    )
    height: int = Field(default=480, ge=1, le=8192, description="pixels")
    cell: int = Field(default=16, ge=1, le=16, description="pixels per side of a cell of the teachers' grid")
    interpolation: Literal["nearest", "bilinear"] = Field(
        default="bilinear", description="how pixels share their weight"
    )
    pictures: Literal["renders", "photos"] = Field(
        default="renders", description="what teachers look at: renders, or the photographs of the scene's own cameras"
    )
    photo_folder: str = Field(
        default="", description="where photographs lie, relative to the cameras; empty looks in the usual places"
    )
    photo_agreement: float = Field(
        default=0.0,
        ge=0,
        description="cells weigh exp(-difference / this) where photograph and render differ; 0 = all alike",
    )
    view_list: str = Field(
        default=VIEW_LIST, description="file beside the cameras that names the views to use, where it is there"
    )
    n_views: int = Field(default=64, ge=1, description="views chosen for a scene that brings no cameras")
    fov_x: float = Field(default=70.0, gt=1, le=150, description="degrees, for chosen views")
    alignment: AlignmentSettings = Field(
        default_factory=AlignmentSettings,
        description="which way is up, metres per unit, and stray Gaussians: how a scene is brought in order first",
    )
    max_views: int = Field(default=0, ge=0, description="cap on the views that a scene brings; 0 = none")
    view_choice: Literal["spread", "even"] = Field(
        default="spread", description="which of them: spread over the scene by what they see, or evenly in their order"
    )
    background: tuple[UnitFloat, UnitFloat, UnitFloat] = Field(
        default=(0.0, 0.0, 0.0), description="colour behind the scene, 0 to 1"
    )
    bits: Bits = Field(default="ecsq", description="per channel of a dense teacher, see docs/design/cache.md")
    mask_embeddings: MaskForm = Field(
        default="pooled", description='of masks: mean of the dense tokens, or "crops" with the rest blurred'
    )
    store_rgb: bool = Field(default=True, description="keep the rendered pictures (needed for reports)")
    store_depth: bool = Field(default=False, description="keep the rendered depth (f16, metres)")
    rasterizer: str = Field(default="cpu", description="backend, see chorus_common.rasterize")
    batch: int = Field(default=8, ge=1, description="views that go through the teachers at once")
    teacher_threads: int = Field(
        default=1,
        ge=1,
        description="CPU threads of a neural teacher; fixed, because sums differ in the last bit with it",
    )
    coverage_views: int = Field(default=3, ge=1, description="views that must see a covered Gaussian")
    error_sample: int = Field(default=2048, ge=1, description="Gaussians on which the error is measured")
    seed: int = Field(default=0, ge=0, description="of everything that is drawn")
    calibration: CalibrationConfig = Field(default_factory=CalibrationConfig)

    @field_validator("teachers")
    @classmethod
    def _distinct(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        names = [teacher_name(spec) for spec in specs]
        if not specs:
            raise ValueError("name at least one teacher")
        if len(set(names)) != len(names):
            raise ValueError("a teacher is named twice")
        return specs


def scene_settings(config: Stage1Config, row: ManifestRow) -> Stage1Config:
    """`config` for the scene of `row`: what the manifest says of the scene, where the settings leave it open."""
    return config.model_copy(update={"alignment": config.alignment.or_else(row.alignment)})


class RunConfig(ClusterConfig):
    """How the work is spread and how patient we are; never changes a byte of the cache."""

    overwrite: bool = Field(default=False, description="redo scenes that were published with other settings")
    retries: int = Field(default=1, ge=0, description="more tries for what may pass: a file system or bucket hiccup")
    max_failures: int = Field(default=0, ge=0, description="stop after this many failed scenes; 0 = never")
