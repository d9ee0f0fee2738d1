"""The option `--teachers NAME=TEACHER` of import and export."""

from __future__ import annotations

from collections.abc import Sequence

from chorus_common.runtime.errors import ConfigError


def parse_teachers(options: Sequence[str], *, required: bool) -> dict[str, str]:
    """ "lang=open_clip:MODEL:WEIGHTS" -> {"lang": "open_clip:MODEL:WEIGHTS"}; "lang" -> {"lang": ""} unless `required`.

    Raises ConfigError for a stem that is given twice or could not begin the name of a file.
    """
    found: dict[str, str] = {}
    for option in options:
        stem, equals, teacher = option.partition("=")
        if not stem or "/" in stem or stem.startswith(".") or (bool(equals) != bool(teacher)):
            raise ConfigError(f"--teachers {option}: expected NAME=TEACHER for the files NAME_feat.npy")
        if required and not teacher:
            raise ConfigError(f"--teachers {option}: say which teacher it is: {stem}=TEACHER")
        if stem in found:
            raise ConfigError(f"--teachers {option}: '{stem}' is given twice")
        found[stem] = teacher
    return found
