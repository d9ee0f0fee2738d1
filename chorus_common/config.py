"""Typed configuration: a pydantic model, filled from TOML and `--set key=value`, with unknown keys refused by name.

Every stage declares one frozen `Config` subclass and passes it down; the resolved config is written beside every
output.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from chorus_common.errors import ConfigError


class Config(BaseModel):
    """Base of all configs: frozen; unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def load_config(kind: type[C], path: str | Path | None = None, settings: Iterable[str] = ()) -> C:
    """Build a `kind` from its defaults, then the TOML file at `path`, then `settings`.

    A setting is "a.b=value" with the value in TOML syntax or a bare word.

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
    for setting in settings:
        key, sep, text = setting.partition("=")
        if not sep or not key.strip():
            raise ConfigError(f"--set {setting}: expected key=value")
        node = data
        *parents, leaf = key.strip().split(".")
        for name in parents:
            child = node.setdefault(name, {})
            if not isinstance(child, dict):
                raise ConfigError(f"--set {setting}: {name} is not a section")
            node = child
        node[leaf] = _parse_value(text.strip())
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path or 'config'}: {first_problem(kind, error)}") from None


def dump_config(config: Config) -> str:
    """The resolved config as indented JSON with sorted keys: the same config gives the same bytes."""
    return json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def first_problem(kind: type[BaseModel], error: ValidationError) -> str:
    """The first thing that is wrong with a config, in one line; an unknown key with the nearest known one."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = sorted(known_keys(kind))
        near = difflib.get_close_matches(where, known, n=1, cutoff=0.0)
        return f"unknown key '{where}'; did you mean '{near[0]}'?" if near else f"unknown key '{where}'"
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
