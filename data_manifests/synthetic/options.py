"""Settings of the room generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from chorus_common.runtime.config import Config

RoomType = Literal["living room", "bedroom", "office", "kitchen", "bathroom"]
Domain = Literal["clean", "shifted", "scan"]
#: Labelled Gaussian scenes with a manifest, or the raw layout of a public data set.
LayoutName = Literal["gaussians", "scannet", "s3dis"]


class RoomOptions(Config):
    """What to generate. The same options and seed give the same bytes."""

    gaussians: int = Field(
        default=24_000, ge=1_000, le=5_000_000, description="aim; the result differs by a few percent"
    )
    views: int = Field(default=24, ge=1, le=2_000, description="cameras")
    width: int = Field(default=320, ge=16, le=4096, description="pixels")
    height: int = Field(default=240, ge=16, le=4096, description="pixels")
    room_type: RoomType | None = Field(default=None, description="None: drawn from the seed")
    domain: Domain = Field(default="clean", description="look of the room and quality of its reconstruction")


@dataclass(frozen=True)
class ScanStyle:
    """The walk and the errors of a hand-held depth sensor.

    frames: of the walk; least_frames: that must have seen a point; pitch: mean of the frames, degrees; glossy: share
    of panes, screens and lamps without depth; waves: smooth displacement of surfaces, and noise of single points [m];
    drift of exposure and white balance; color_noise per point.
    """

    frames: int
    least_frames: int
    pitch: float
    glossy: float
    waves: float
    noise: float
    drift: float
    color_noise: float


@dataclass(frozen=True)
class DomainStyle:
    """What makes scenes of one domain look alike: palette, light, and how well the Gaussians were fitted.

    saturation scales the palette; exposure is a range; cast the strength of the colour cast (log gain); scale_noise the
    spread (log) of the tangential scales; position_noise [m]; floaters and holes are shares of the Gaussians;
    color_noise is added to the colour. scan: the room becomes the points of a scan; of the others only saturation,
    exposure and cast count then.
    """

    saturation: float
    exposure: tuple[float, float]
    cast: float
    scale_noise: float
    position_noise: float
    floaters: float
    holes: float
    color_noise: float
    opacity: tuple[float, float]
    scan: ScanStyle | None = None


#: A tablet with a Structure sensor, as ScanNet was captured.
SCANNER = ScanStyle(
    frames=40, least_frames=2, pitch=-20.0, glossy=0.5, waves=0.009, noise=0.004, drift=0.075, color_noise=0.02
)

DOMAINS: dict[str, DomainStyle] = {
    "clean": DomainStyle(1.0, (0.85, 1.2), 0.05, 0.06, 0.0012, 0.0, 0.0, 0.012, (0.85, 0.97)),
    # dim, tinted, pale rooms; a reconstruction that stopped early: uneven splats, floaters, holes, noisy colour
    "shifted": DomainStyle(0.35, (0.6, 0.9), 0.15, 0.35, 0.005, 0.02, 0.05, 0.03, (0.4, 0.97)),
    # paler and brighter rooms, as a scan has them
    "scan": DomainStyle(0.6, (0.95, 1.8), 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, (0.9, 0.9), SCANNER),
}
