"""Typed configuration: a pydantic model, filled from TOML and `--set key=value`, with unknown keys refused by name.

Every stage declares one frozen `Config` subclass and passes it down; the resolved config is written beside every
output.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from chorus_common.runtime.errors import ConfigError, did_you_mean


class Config(BaseModel):
    """Base of all configs: frozen; unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


C = TypeVar("C", bound=Config)

#: A key of TOML, bare or quoted parts between dots, before the first "=" outside of quotes; and what follows it.
_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_SETTING = re.compile(rf"\s*({_PART}(?:[ \t]*\.[ \t]*{_PART})*)\s*=(.*)", re.DOTALL)


def load_config(kind: type[C], path: str | Path | None = None, settings: Iterable[str] = ()) -> C:
    """Build a `kind` from its defaults, then the TOML file at `path`, then `settings`.

    A setting is "a.b=value" with the key in TOML syntax (a part that holds dots is quoted: a."b.c"=value) and the value
    in TOML syntax or a bare word.

    Raises ConfigError: one line that names the key, where it came from, and the nearest known key.
    """
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such config file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
    keys = []
    for setting in settings:
        key, text = _split(setting)
        keys.append(key)
        node = data
        *parents, leaf = key
        for name in parents:
            child = node.setdefault(name, {})
            if not isinstance(child, dict):
                raise ConfigError(f"--set {setting}: {name} is not a section")
            node = child
        node[leaf] = _parse_value(text.strip())
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path or 'config'}: {first_problem(kind, error)}{_quoting(kind, error, keys)}") from None


def _split(setting: str) -> tuple[list[str], str]:
    """The parts of a setting's key, and the text of its value."""
    found = _SETTING.fullmatch(setting)
    if found is None:
        raise ConfigError(
            f"--set {setting}: expected key=value; a part of the key that holds more than letters, digits, - and _ is "
            'quoted: a."b.c"=value'
        )
    try:
        node = tomllib.loads(f"{found[1]} = 0")
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--set {setting}: not a key of TOML: {error}") from None
    parts = []
    while isinstance(node, dict):
        (part,) = node
        parts.append(part)
        node = node[part]
    return parts, found[2]


def dump_config(config: Config) -> str:
    """The resolved config as indented JSON with sorted keys: the same config gives the same bytes."""
    return json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _quoting(kind: type[BaseModel], error: ValidationError, keys: Sequence[Sequence[str]]) -> str:
    """How to write the setting that a problem comes from, where a name of the user's own may have been split at a dot:
    what is refused lies below a table of named things, and the key goes on behind it.
    """
    where = error.errors()[0]["loc"]
    named = _named_from(kind, where)
    for key in keys:
        if named and tuple(key[: len(where)]) == where and len(key) > max(len(where), named + 1):
            end = len(where) if len(where) > named + 1 else len(key)
            name = ".".join(key[named:end])
            whole = ".".join([*key[:named], f'"{name}"', *key[end:]])
            return f"; a name that holds dots is quoted: --set '{whole}=...'"
    return ""


def _named_from(kind: type[BaseModel], where: Sequence[str | int]) -> int:
    """Place in a key of the first name that a user gives (below a dict), 0 where there is none."""
    model: Any = kind
    for place, part in enumerate(where):
        field = model.model_fields.get(part)
        model = None if field is None else field.annotation
        if get_origin(model) is dict:
            return place + 1
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return 0
    return 0


def first_problem(kind: type[BaseModel], error: ValidationError) -> str:
    """The first thing that is wrong with a config, in one line; an unknown key with the nearest known one."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{where}'" + did_you_mean(where, sorted(known_keys(kind)))
    if isinstance(problem["input"], dict):  # a check of several keys together, whose message names them
        message = problem["msg"].removeprefix("Value error, ")
        return f"'{where}': {message}" if where else message
    return f"'{where}': {problem['msg']} (got {problem['input']!r})"


def known_keys(kind: type[BaseModel], prefix: str = "") -> set[str]:
    """All dotted keys of a config class."""
    keys: set[str] = set()
    for name, info in kind.model_fields.items():
        keys.add(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys |= known_keys(info.annotation, f"{prefix}{name}.")
    return keys
