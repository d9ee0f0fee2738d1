"""Weights in and out: every published layout round trip, refusals by name, nothing unpickled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from chorus_common.errors import WeightsError
from stage2_distill.encoder import Encoder, build_encoder, convert, export_encoder, load_encoder
from tests.stage2.clouds import cloud

TINY: dict[str, Any] = {
    "enc_channels": (24, 36, 48),
    "enc_depths": (1, 1, 2),
    "enc_patch_size": (32, 32, 32),
    "dec_channels": (32, 36),
}


def tiny(preset: str = "chorus", **overrides: Any) -> Encoder:
    torch.manual_seed(1)
    return build_encoder(preset, **(TINY | overrides)).eval()


def same_features(a: Encoder, b: Encoder) -> bool:
    batch = cloud(80, a.config.in_channels)
    with torch.no_grad():
        return torch.equal(a(batch), b(batch))


@pytest.mark.parametrize("preset", ["chorus", "scenesplat", "sonata"])
def test_own_folder(preset: str, tmp_path: Path) -> None:
    encoder = tiny(preset)
    export_encoder(encoder, tmp_path / "e")
    loaded = load_encoder(tmp_path / "e")
    assert loaded.config == encoder.config
    assert not loaded.training
    assert same_features(loaded, encoder)


def test_students_folder_gives_its_encoder(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    encoder = tiny()
    export_encoder(encoder, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    student = {f"encoder.{k}": v for k, v in state.items()} | {"projectors.clip.0.weight": torch.ones(3, 3)}
    save_file(student, tmp_path / "model.safetensors")
    assert same_features(load_encoder(tmp_path), encoder)


def test_released_file_carries_its_architecture(tmp_path: Path) -> None:
    with torch.device("meta"):
        config = build_encoder("sonata").config
    encoder = build_encoder("sonata", enc_depths=(1, 1, 1, 1, 1))
    export_encoder(encoder, tmp_path / "sonata.pth", "released")
    loaded = load_encoder(tmp_path / "sonata.pth")
    assert loaded.config == encoder.config != config
    assert loaded.config.inputs.color_range == "unit"
    content = torch.load(tmp_path / "sonata.pth", weights_only=True)
    assert content["config"]["enc_channels"] == (48, 96, 192, 384, 512)


def test_trainer_file_is_recognised_by_its_shapes(tmp_path: Path) -> None:
    with torch.device("meta"):
        sizes = {k: v.shape for k, v in build_encoder("litept-s-star").state_dict().items()}
    state = {f"module.backbone.{k}": torch.zeros(v) for k, v in sizes.items()}
    state["module.seg_head.weight"] = torch.zeros(20, 72)
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "model_best.pth")
    assert load_encoder(tmp_path / "model_best.pth").config.name == "litept-s-star"


@pytest.mark.parametrize(
    "prefix", ["module.student.backbone.", "student.backbone.", "module.backbone.", "backbone.", "module.", ""]
)
def test_prefixes(prefix: str, tmp_path: Path) -> None:
    encoder = tiny("ptv3")
    state = {prefix + k: v for k, v in encoder.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    loaded = load_encoder(tmp_path / "x.pth", preset="ptv3", enc_patch_size=(32, 32, 32))
    assert same_features(loaded, encoder)


def test_trainer_round_trip(tmp_path: Path) -> None:
    encoder = tiny("scenesplat")
    export_encoder(encoder, tmp_path / "x.pth", "trainer")
    loaded = load_encoder(tmp_path / "x.pth", preset="scenesplat", enc_patch_size=(32, 32, 32))
    assert same_features(loaded, encoder)
    assert (loaded.config.pool_reduce, loaded.config.inputs.color_range) == ("mean", "symmetric")


def test_kernels_of_spconv_1_are_permuted() -> None:
    encoder = tiny("ptv3")
    old = {k: v.permute(1, 2, 3, 4, 0).contiguous() if v.ndim == 5 else v for k, v in encoder.state_dict().items()}
    for key, value in convert(old).items():
        assert torch.equal(value, encoder.state_dict()[key])


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    encoder = tiny("ptv3")
    state = dict(encoder.state_dict())
    del state["enc.enc1.block0.attn.qkv.bias"]
    state["enc.enc1.block0.extra"] = torch.zeros(1)
    state["enc.enc0.block0.mlp.0.fc1.bias"] = torch.zeros(7)
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    with pytest.raises(WeightsError) as caught:
        load_encoder(tmp_path / "x.pth", preset="ptv3")
    message = str(caught.value)
    for part in (
        "x.pth",
        "missing enc.enc1.block0.attn.qkv.bias",
        "unexpected enc.enc1.block0.extra",
        "fc1.bias is (7,)",
    ):
        assert part in message
    assert "\n" not in message


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": Bomb()}}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=r"bad\.pth: holds more than tensors"):
        load_encoder(tmp_path / "bad.pth")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_unreadable_files(content: bytes, tmp_path: Path) -> None:
    for name in ("x.pth", "x.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name):
            load_encoder(tmp_path / name)
    with pytest.raises(WeightsError, match="no such file"):
        load_encoder(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_encoder(tmp_path)


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="known: chorus, released, trainer"):
        export_encoder(tiny(), tmp_path / "x", "onnx")
