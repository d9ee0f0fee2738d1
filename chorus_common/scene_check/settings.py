"""How a scene is brought to what encoders expect: z up, metres, no stray Gaussians."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError

from chorus_common.runtime.config import Config
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene_check.words import AUTO, parse_number, parse_up


def _up(value: object) -> str:
    parse_up(str(value))
    return str(value).strip().lower()


def _number(value: object) -> str:
    parse_number(str(value))
    return str(value).strip().lower()


class AlignmentSettings(Config):
    """What is done to a scene before it is rendered or encoded."""

    up: Annotated[str, BeforeValidator(_up)] = Field(
        default=AUTO, description="upward direction of the file: auto, off (it is z), an axis such as -y, or x,y,z"
    )
    scale: Annotated[str, BeforeValidator(_number)] = Field(
        default=AUTO, description="metres per unit of the file: auto, off (it is 1), or a number"
    )
    outliers: Annotated[str, BeforeValidator(_number)] = Field(
        default=AUTO,
        description="Gaussians apart from all others: auto, off (keep them), or the distance in metres from which one "
        "lies apart",
    )

    def or_else(self, recorded: AlignmentSettings) -> AlignmentSettings:
        """These settings, with what is `recorded` of a scene where they say auto."""
        return AlignmentSettings(
            **{name: getattr(recorded, name) if word == AUTO else word for name, word in self.model_dump().items()}
        )


def alignment_settings(up: str = AUTO, scale: str = AUTO, outliers: str = AUTO) -> AlignmentSettings:
    """Settings from the words of a command line. Raises ConfigError, one line, for one that means nothing."""
    try:
        return AlignmentSettings(up=up, scale=scale, outliers=outliers)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}") from None
