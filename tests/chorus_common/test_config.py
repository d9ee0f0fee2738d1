from __future__ import annotations

import json
from pathlib import Path

import pytest

from chorus_common.config import Config, dump_config, load_config
from chorus_common.errors import ConfigError


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


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such config file"):
        load_config(Settings, tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = [1,")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        load_config(Settings, tmp_path / "bad.toml")
