"""Weights in and out: every published layout round trip, refusals by name, nothing unpickled."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chorus_common.runtime.errors import WeightsError
from stage2_distill.encoder import Encoder, build_encoder, convert, export_encoder, load_encoder
from tests.stage2.clouds import cloud

TINY: dict[str, Any] = {
    "enc_channels": (24, 36, 48),
    "enc_depths": (1, 1, 2),
    "enc_patch_size": (32, 32, 32),
    "dec_channels": (32, 36),
}


def tiny(preset: str = "chorus-lite", **overrides: Any) -> Encoder:
    torch.manual_seed(1)
    return build_encoder(preset, **(TINY | overrides)).eval()


def same_features(a: Encoder, b: Encoder) -> bool:
    batch = cloud(80, a.config.in_channels)
    with torch.no_grad():
        return torch.equal(a(batch), b(batch))


@pytest.mark.parametrize("preset", ["chorus-lite", "scenesplat", "sonata"])
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
    export_encoder(encoder, tmp_path / "sonata.pth", "sonata")
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
    "prefix",
    [
        "module.student.backbone.", "student.backbone.", "module.backbone.", "backbone.", "module.", "", "_orig_mod.",
        "module._orig_mod.backbone.", "model.", "teacher.backbone.", "module.teacher.backbone.", "net.encoder.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "ema_state_dict", "model_state_dict"])
def test_prefixes(prefix: str, wrapper: str, tmp_path: Path) -> None:
    encoder = tiny("ptv3")
    state = {prefix + k: v for k, v in encoder.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3}, tmp_path / "x.pth")
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
    with pytest.raises(WeightsError, match="known: chorus, sonata"):
        export_encoder(tiny(), tmp_path / "x", "onnx")


#: preset, and the formats in which its architecture is published
PUBLISHED = [
    ("sonata", "sonata"), ("concerto-base", "concerto"), ("concerto-large", "concerto"), ("ptv3", "ptv3"),
    ("scenesplat", "scenesplat"), ("litept-s", "litept"), ("litept-s-star", "litept"), ("litept-b", "trainer"),
    ("litept-l", "trainer"), ("sonata", "trainer"), ("utonia", "utonia"), ("utonia-small", "trainer"),
]  # fmt: skip


@pytest.mark.parametrize("preset", sorted({p for p, _ in PUBLISHED}))
def test_official_file_is_recognised(preset: str, tmp_path: Path) -> None:
    """Keys and shapes of the full-size models (docs/design/encoder.md: confirmed against upstream's classes), as their
    trainers and releases store them, without a word on which model it is.
    """
    with torch.device("meta"):
        config = build_encoder(preset).config
        shapes = {k: v.shape for k, v in build_encoder(preset).state_dict().items()}
    state = {k: torch.zeros(()).expand(v) for k, v in shapes.items()}  # a stored tensor of one number each
    contents: list[dict[str, Any]] = [
        {"epoch": 3, "state_dict": {f"module.backbone.{k}": v for k, v in state.items()}},
        {"state_dict": {f"module.student.backbone.{k}": v for k, v in state.items()}
         | {"module.teacher.backbone.embedding.stem.norm.weight": torch.zeros(3)}},
    ]  # fmt: skip
    for i, content in enumerate(contents):
        torch.save(content, tmp_path / f"{i}.pth")
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):  # copies onto meta tensors do nothing
            found = load_encoder(tmp_path / f"{i}.pth").config
        name = "sonata" if preset == "concerto-base" else preset  # the same architecture and conventions
        assert found == config.model_copy(update={"name": name})


@pytest.mark.parametrize(("preset", "format"), PUBLISHED)
def test_round_trip_of_every_format(preset: str, format: str, tmp_path: Path) -> None:
    """Random weights in the official layout, read, written and read again: the same bits, and the same conventions."""
    sizes: dict[str, Any] = {"enc_channels": (18, 36, 54), "enc_depths": (1, 1, 2), "enc_patch_size": (16, 32, 64)}
    if preset != "sonata":  # what differs from the preset and is in no shape: upstream's files do not tell it
        sizes["order"] = ("hilbert", "z")
    torch.manual_seed(3)
    encoder = build_encoder(preset, **sizes).eval()
    official = {k: torch.randn(v.shape) * 0.1 if v.is_floating_point() else v for k, v in encoder.state_dict().items()}
    official |= {k: v.abs() + 0.5 for k, v in official.items() if k.endswith("running_var")}
    encoder.load_state_dict(official)
    export_encoder(encoder, tmp_path / "a.pth", format)
    loaded = load_encoder(tmp_path / "a.pth")
    assert loaded.config == encoder.config
    assert same_features(loaded, encoder)
    export_encoder(loaded, tmp_path / "b.pth", format)
    first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pth", "b.pth"))
    assert list(first) == list(second)
    prefix = "" if "config" in first else "module.backbone."
    assert list(second["state_dict"]) == [prefix + k for k in official]
    assert all(torch.equal(second["state_dict"][prefix + k], v) for k, v in official.items())
    if "config" in first:
        assert first["config"] == second["config"]
        assert first["config"]["order"] == encoder.config.order


def test_shapes_tell_what_presets_do_not_have(tmp_path: Path) -> None:
    encoder = build_encoder("ptv3", **TINY, qkv_bias=False, mlp_ratio=2, layer_scale=0.1, stem_kernel=3).eval()
    torch.save({"state_dict": encoder.state_dict()}, tmp_path / "x.pth")
    loaded = load_encoder(tmp_path / "x.pth", preset="ptv3", enc_patch_size=(32, 32, 32))
    assert (loaded.config.qkv_bias, loaded.config.mlp_ratio, loaded.config.stem_kernel) == (False, 2, 3)
    assert same_features(loaded, encoder)


def test_trainers_other_objects_are_passed_over(tmp_path: Path) -> None:
    """What Pointcept saves beside the weights: numpy numbers, the scheduler's functions, an optimiser."""
    encoder = tiny("ptv3")
    parameter = torch.nn.Parameter(torch.ones(2))
    optimiser = torch.optim.AdamW([parameter])
    content = {
        "epoch": 800,
        "state_dict": {f"module.backbone.{k}": v for k, v in encoder.state_dict().items()},
        "optimizer": optimiser.state_dict(),
        "scheduler": {"anneal_func": torch.optim.lr_scheduler.OneCycleLR._annealing_cos, "owner": Path("exp")},
        "best_metric_value": np.float64(0.776),
    }
    torch.save(content, tmp_path / "model_best.pth")
    loaded = load_encoder(tmp_path / "model_best.pth", preset="ptv3", enc_patch_size=(32, 32, 32))
    assert same_features(loaded, encoder)
    content["state_dict"] = {"module.backbone.embedding.stem.conv.weight": np.float64(1)}
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"odd\.pth: holds no state dict"):
        load_encoder(tmp_path / "odd.pth")


def test_release_of_another_width(tmp_path: Path) -> None:
    """Concerto-small is in no preset; its file says what shapes do not tell."""
    encoder = tiny("concerto-base", enc_num_head=(2, 3, 4), order=("hilbert",))
    export_encoder(encoder, tmp_path / "x.pth", "concerto")
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    del content["chorus_config"]
    torch.save(content, tmp_path / "x.pth")
    loaded = load_encoder(tmp_path / "x.pth")
    assert loaded.config.enc_num_head == (2, 3, 4)
    assert same_features(loaded, encoder)


def test_arguments_that_change_the_numbers_are_not_dropped(tmp_path: Path) -> None:
    encoder = tiny("sonata")
    export_encoder(encoder, tmp_path / "x.pth", "sonata")
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    del content["chorus_config"]
    for arguments, message in (({"enable_rpe": True}, "enable_rpe"), ({"gating": 1}, "unknown key 'gating'")):
        torch.save(content | {"config": content["config"] | arguments}, tmp_path / "y.pth")
        with pytest.raises(WeightsError, match=rf"y\.pth: .*{message}"):
            load_encoder(tmp_path / "y.pth")


@pytest.mark.parametrize(
    ("preset", "overrides", "format", "named"),
    [
        ("chorus-lite", {}, "trainer", "block = 'litept'"),
        ("sonata", {"norm": "batch"}, "sonata", "norm = 'batch'"),
        ("ptv3", {}, "scenesplat", "pool_reduce = 'max'"),
        ("ptv3", {"enc_attn": (False, True, True)}, "ptv3", "stages without convolution or without attention"),
    ],
)
def test_what_upstream_has_no_class_for_is_refused(
    preset: str, overrides: dict[str, Any], format: str, named: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=named):
        export_encoder(tiny(preset, **overrides), tmp_path / "x.pth", format)
    assert not (tmp_path / "x.pth").exists()


def test_folders_say_themselves_what_they_are(tmp_path: Path) -> None:
    export_encoder(tiny(), tmp_path / "e")
    with pytest.raises(WeightsError, match="leave out the preset"):
        load_encoder(tmp_path / "e", preset="sonata")


def damaged_header(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new))


def test_folders_of_another_format_or_schema_are_refused(tmp_path: Path) -> None:
    export_encoder(tiny(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"schema_version": 99}, r"config\.json: not an encoder's config \('schema_version': Input should be 1"),
        ({"format": "zzz"}, r"config\.json: not an encoder's config \('format': Input should be 'chorus-encoder' or"),
        ({"encoder": 5}, r"config\.json: not an encoder's config \('encoder'"),
        ({"encoder": config["encoder"] | {"enc_channels": [0, 0, 0]}}, r"enc_channels\.0"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(WeightsError, match=message):
            load_encoder(tmp_path)
    for text in ("[]", "{}", "5", "{", "\udcff"):
        (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(WeightsError, match=r"config\.json: not an encoder's config"):
            load_encoder(tmp_path)


def test_safetensors_of_an_unknown_type_are_named(tmp_path: Path) -> None:
    export_encoder(tiny(), tmp_path)
    damaged_header(tmp_path / "model.safetensors", b'"dtype":"F32"', b'"dtype":"F4" ')
    with pytest.raises(WeightsError, match=r"model\.safetensors: not a valid safetensors file"):
        load_encoder(tmp_path)


def test_every_damaged_byte_of_a_pickle_is_one_line(tmp_path: Path) -> None:
    """The pickle inside a checkpoint with single bytes changed: it loads, or WeightsError says what is wrong."""
    torch.save(
        {"state_dict": {"embedding.stem.linear.weight": torch.ones(4, 6)}, "config": {"a": 1}}, tmp_path / "x.pth"
    )
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    key = next(name for name in entries if name.endswith("data.pkl"))
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(entries[key])
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
        with zipfile.ZipFile(tmp_path / "y.pth", "w") as archive:
            for name, content in (entries | {key: bytes(data)}).items():
                archive.writestr(name, content)
        with warnings.catch_warnings(), pytest.raises(WeightsError, match=r"y\.pth: "):
            warnings.simplefilter("ignore")
            load_encoder(tmp_path / "y.pth")


@pytest.mark.parametrize(
    "arguments",
    [
        {"enc_channels": 5}, {"in_channels": [9]}, {1: 2}, {"inputs": 3}, {"enc_channels": (0, 0)}, {"drop_path": 1.0},
        {"enc_channels": torch.ones(2)}, {"qk_scale": torch.ones(2)}, {"a": {1, 2}},
    ],
)  # fmt: skip
def test_malformed_arguments_of_a_release_are_one_line(tmp_path: Path, arguments: dict[Any, Any]) -> None:
    export_encoder(tiny("sonata"), tmp_path / "x.pth", "sonata")
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    for key in ("config", "chorus_config"):
        other = {k: v for k, v in content.items() if k != "chorus_config"}
        torch.save(other | {key: {**content[key], **arguments}}, tmp_path / "y.pth")
        with pytest.raises(WeightsError, match=r"y\.pth: ") as caught:
            load_encoder(tmp_path / "y.pth")
        assert "\n" not in str(caught.value)


def test_state_dicts_of_other_things_are_one_line(tmp_path: Path) -> None:
    state = dict(tiny("sonata").state_dict())
    stem = "embedding.stem.linear.weight"
    for change, message in (
        ({5: torch.ones(1)}, "holds no state dict"),
        ({stem: torch.ones(())}, r"embedding\.stem\.linear\.weight is \(\), which is no weight of an encoder"),
        ({stem: torch.ones(0, 9)}, r"is \(0, 9\), which is no weight"),
        ({"enc.enc1.down.proj.weight": torch.ones(())}, r"enc\.enc1\.down\.proj\.weight is \(\)"),
        ({"enc.enc0.block0.mlp.0.fc1.weight": torch.ones(3)}, r"fc1\.weight is \(3,\)"),
    ):
        torch.save({"state_dict": state | change}, tmp_path / "x.pth")
        with pytest.raises(WeightsError, match=rf"x\.pth: .*{message}"):
            load_encoder(tmp_path / "x.pth", preset="sonata")
