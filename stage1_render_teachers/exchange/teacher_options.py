"""The options `--teachers NAME=TEACHER` of import and export, and `--rename NAME=TEACHER` of import."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

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


def store_names(specs: Mapping[str, str], renamed: Sequence[str]) -> dict[str, str]:
    """Stem -> what the teacher of its files is called in the store: "lang=SPEC" is called "lang", as by `run`, and by
    "lang=other" in `renamed` "other". Stems without a spec are not in it: they are called by the spec that is found.

    Raises ConfigError for a stem that is given twice or not among `specs`, and for a name that a file cannot have.
    """
    names = {stem: stem for stem, spec in specs.items() if spec}
    seen = set()
    for option in renamed:
        stem, _, name = option.partition("=")
        if not stem or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise ConfigError(f"--rename {option}: expected NAME=TEACHER, TEACHER of letters, digits and _ . -")
        if stem not in specs:
            raise ConfigError(f"--rename {option}: --teachers {stem}=SPEC is not given")
        if stem in seen:
            raise ConfigError(f"--rename {option}: '{stem}' is given twice")
        seen.add(stem)
        names[stem] = name
    return names
