from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import Field

from chorus_common.runtime.config import Config, dump_config, load_config
from chorus_common.runtime.errors import ConfigError


class Optimiser(Config):
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


class Settings(Config):
    name: str = "x"
    epochs: int = 3
    optimiser: Optimiser = Optimiser()


def test_file_then_settings_override_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("epochs = 7\n[optimiser]\nlearning_rate = 0.5\n")
    config = load_config(Settings, path, ["optimiser.betas=[0.1, 0.2]", "name=rooms", "epochs=9"])
    assert config == Settings(name="rooms", epochs=9, optimiser=Optimiser(learning_rate=0.5, betas=(0.1, 0.2)))
    assert Settings.model_validate(json.loads(dump_config(config))) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optimiser.lerning_rate=1"], r"unknown key 'optimiser.lerning_rate'; did you mean 'optimiser.learning_rate'"),
        (["epochs=many"], r"'epochs': .*got 'many'"),
        (["epochs"], r"expected key=value"),
        (["name.first=1", "name=2", "name.x=3"], r"name is not a section"),
    ],
)
def test_bad_settings_name_the_key(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Settings, None, settings)


class Named(Config):
    things: dict[str, Optimiser] = Field(default_factory=dict)
    shares: dict[str, float] = Field(default_factory=dict)


def test_names_with_dots_are_quoted() -> None:
    settings = [
        'things."a.b".learning_rate=0.5',
        "things.'c=d'.betas = [0.1, 0.2]",
        ' shares . "x\\"y" = 2',
        "shares.z=3",
    ]
    config = load_config(Named, None, settings)
    assert config.things == {"a.b": Optimiser(learning_rate=0.5), "c=d": Optimiser(betas=(0.1, 0.2))}
    assert config.shares == {'x"y': 2, "z": 3}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("things.a.b.learning_rate=1", "quoted: --set 'things.\"a.b\".learning_rate=...'"),
        ("shares.a.b=1", "quoted: --set 'shares.\"a.b\"=...'"),
        ("shares.a.b.c=1", "quoted: --set 'shares.\"a.b.c\"=...'"),
        ("shares.a b=1", 'is quoted: a."b.c"=value'),
        ('shares."a=1', 'is quoted: a."b.c"=value'),
        ("shares..a=1", 'is quoted: a."b.c"=value'),
        ('shares."\\q"=1', "not a key of TOML"),
        ("[shares]\na=1", 'is quoted: a."b.c"=value'),
        ("=1", "expected key=value"),
    ],
)
def test_keys_that_are_none_say_how_to_quote(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Named, None, [setting])
    assert message in str(caught.value)


@pytest.mark.parametrize("setting", ["things.a.lerning_rate=1", "shares.a=x", "shapes.a.b=1"])
def test_other_problems_say_nothing_of_quotes(setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Named, None, [setting])
    assert "quoted" not in str(caught.value)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such config file"):
        load_config(Settings, tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = [1,")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        load_config(Settings, tmp_path / "bad.toml")
