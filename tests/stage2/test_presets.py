"""Overrides of presets: malformed ones are one line that names the key, whole ones give what they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import ConfigError
from stage2_distill.encoder import build_encoder, preset_config
from stage2_distill.settings import TrainConfig
from stage2_distill.start import make_encoder
from tests.stage2.clouds import cloud


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("enc_channels=5", "'enc_channels': Input should be a valid tuple"),
        ('enc_channels=["a", "b"]', r"'enc_channels\.0': Input should be a valid integer"),
        ("enc_channels=[8.5, 16]", r"'enc_channels\.0': Input should be a valid integer"),
        ("enc_channels=[0, 16]", r"'enc_channels\.0': Input should be greater than 0"),
        ("enc_channels=[-8, 16]", r"'enc_channels\.0': Input should be greater than 0"),
        ("enc_channels=[]", "'enc_channels': Tuple should have at least 1 item"),
        ("dec_channels=5", "'dec_channels': Input should be a valid tuple"),
        ("enc_depths=5", "'enc_depths': Input should be a valid tuple"),
        ("inputs=5", "'inputs': Input should be a valid dictionary"),
        ('inputs="x"', "'inputs': Input should be a valid dictionary"),
        ("inputs.grid=1", r"unknown key 'inputs\.grid'; did you mean 'inputs\.grid_size'"),
        ("inputs.grid_size=0", r"'inputs\.grid_size': Input should be greater than 0"),
        ("in_channels=[3]", "'in_channels': Input should be a valid integer"),
        ("drop_path=1.0", "'drop_path': Input should be less than 1"),
        ("enc_chanels=[8, 16]", "unknown key 'enc_chanels'; did you mean 'enc_channels'"),
    ],
)
def test_malformed_overrides_are_named(setting: str, message: str) -> None:
    settings = [f"encoder.overrides.{s}" for s in ("enc_channels=[8, 16]", setting)]
    with pytest.raises(ConfigError, match=f"encoder chorus-lite: {message}"):
        make_encoder(load_config(TrainConfig, None, settings).encoder)


@pytest.mark.parametrize("key", ["enc_channels", "enc_depths", "in_channels", "inputs", "dec_channels"])
def test_nothing_is_no_value(key: str) -> None:
    overrides: dict[str, Any] = {"enc_channels": (8, 16), key: None}
    with pytest.raises(ConfigError, match=f"'{key}': Input should be"):
        preset_config("chorus-lite", **overrides)


def test_heavy_drop_path_keeps_features_finite() -> None:
    encoder = build_encoder("chorus-lite", enc_channels=(8, 16), drop_path=0.99).train()
    assert torch.isfinite(encoder(cloud(80, 11))).all()
