"""Checkpoints of the released Chorus: read as students, written back, refused where they are not what they seem."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chorus_common.runtime.errors import WeightsError
from stage2_distill.commands.info import describe
from stage2_distill.encoder import build_encoder, export_encoder, load_encoder, preset_config
from stage2_distill.release import published_teachers
from stage2_distill.student import (
    Student,
    StudentTeacher,
    export_release,
    is_student,
    load_student,
    read_student_config,
    save_student,
)

DATA = Path(__file__).parents[1] / "data"
GOLDEN = {"chorus-3dgs": DATA / "chorus_3dgs_small.pth", "chorus-pts": DATA / "chorus_pts_small.pth"}


def state_of(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def written(path: Path, state: dict[str, Tensor], **more: Any) -> Path:
    torch.save({"state_dict": state, **more}, path)
    return path


def assert_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("mode", GOLDEN)
def test_a_release_is_a_student(mode: str) -> None:
    student = load_student(GOLDEN[mode])
    config = student.config.encoder
    assert (config.name, config.inputs) == (mode, preset_config(mode).inputs)
    assert (config.enc_num_head, config.upcast, student.encoder.out_channels) == ((1, 1, 2, 2, 3), 4, 144)
    teachers = student.config.teachers
    assert {n: (t.channels, t.hidden, t.projector, t.space) for n, t in teachers.items()} == {
        "lang": (48, 576, "norm_input", "unit"),
        "dino": (32, 576, "norm_input", "unit"),
    }
    assert teachers["lang"].spec == "open_clip:ViT-SO400M-14-SigLIP2-378:webli"
    state = state_of(GOLDEN[mode])
    assert all(torch.equal(state[f"module.backbone.{k}"], v) for k, v in student.encoder.state_dict().items())
    assert_same_weights(load_encoder(GOLDEN[mode]), student.encoder)
    assert is_student(GOLDEN[mode])
    latent = torch.randn(5, 144)
    lengths = student.to_teacher_space("lang", latent).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(5))


@pytest.mark.parametrize("mode", GOLDEN)
def test_round_trip(mode: str, tmp_path: Path) -> None:
    """Read, written as a folder, read, written in the release's layout: the file's own keys and bits, in its order."""
    student = load_student(GOLDEN[mode])
    save_student(student, tmp_path / "folder")
    export_release(load_student(tmp_path / "folder"), tmp_path / "back.pth")
    first, second = state_of(GOLDEN[mode]), state_of(tmp_path / "back.pth")
    assert list(first) == list(second)
    assert all(torch.equal(first[k], second[k]) and first[k].dtype == second[k].dtype for k in first)
    again = load_student(tmp_path / "back.pth")
    assert again.config == load_student(tmp_path / "folder").config


def test_the_card_names_origin_and_licence(tmp_path: Path) -> None:
    save_student(load_student(GOLDEN["chorus-3dgs"]), tmp_path / "a")
    save_student(load_student(tmp_path / "a"), tmp_path / "b")  # a copy of a copy comes from where the first came from
    origin = read_student_config(tmp_path / "b").origin
    assert origin is not None
    assert (origin.bytes, origin.licence) == (GOLDEN["chorus-3dgs"].stat().st_size, "CC BY-SA 4.0")
    card = (tmp_path / "b" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-sa-4.0\n")
    assert origin.sha256 in card
    assert "Licence of those weights: CC BY-SA 4.0." in card


@pytest.mark.parametrize(("mode", "trunk", "both"), [
    ("chorus-3dgs", 108_461_424, 131_344_304), ("chorus-pts", 108_461_328, 131_344_208),
])  # fmt: skip
def test_published_sizes(mode: str, trunk: int, both: int) -> None:
    facts = describe(mode, None)
    assert (facts["n_parameters"], facts["n_parameters_with_projectors"]) == (trunk, both)


def full_size(mode: str, path: Path, *more: str) -> Path:
    """A file of the release's full size that takes no space: every tensor is one number, stored once."""
    with torch.device("meta"):
        encoder = build_encoder(mode)
        teachers = {n: StudentTeacher.model_validate(t) for n, t in published_teachers(encoder.out_channels).items()}
        for name in more:
            teachers[name] = teachers["dino"].model_copy(update={"space": "plain"})
        student = Student(encoder, teachers)
    state = {f"module.backbone.{k}": v for k, v in encoder.state_dict().items()}
    state |= {f"module.projectors.{k.removeprefix('projectors.')}": v for k, v in student.state_dict().items()
              if k.startswith("projectors.")}  # fmt: skip
    return written(path, {k: torch.zeros(()).expand(v.shape) for k, v in state.items()})


@pytest.mark.parametrize("mode", GOLDEN)
def test_full_size_is_the_preset(mode: str, tmp_path: Path) -> None:
    path = full_size(mode, tmp_path / "x.pth", "pe_spatial")
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):  # copies onto meta tensors do nothing
        student = load_student(path, "meta")
    # a file holds no decoder's widths; the preset's are not used
    used = {k for k in type(student.config.encoder).model_fields if not k.startswith("dec_")}
    expected = preset_config(mode)
    assert {k: getattr(student.config.encoder, k) for k in used} == {k: getattr(expected, k) for k in used}
    assert student.config.teachers["lang"].text_aligned
    spaces = {n: (t.channels, t.space) for n, t in student.config.teachers.items()}
    assert spaces == {"lang": (1152, "unit"), "dino": (1024, "unit"), "pe_spatial": (1024, "plain")}


def adapted_by_peft(rank: int, scale: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(state with peft's keys on backbone.enc, modules qkv; the same with W + scale B A in their place)."""
    torch.manual_seed(0)
    state, adapted, merged = state_of(GOLDEN["chorus-3dgs"]), {}, {}
    for key, value in state.items():
        name = key.replace("module.backbone.enc.", "module.backbone.enc.base_model.model.")
        if ".attn.qkv." not in key:
            adapted[name] = merged[key] = value
            continue
        place, leaf = name.rsplit(".", 1)
        adapted[f"{place}.base_layer.{leaf}"] = merged[key] = value
        if leaf == "weight":
            down, up = torch.randn(rank, value.shape[1]), torch.randn(len(value), rank)
            adapted |= {f"{place}.lora_A.default.weight": down, f"{place}.lora_B.default.weight": up}
            merged[key] = value + scale * up @ down
    return adapted, merged


def test_lora_of_peft_is_merged(tmp_path: Path) -> None:
    """As the release adapts: r 8, alpha 16, which no file says: W + 2 B A."""
    adapted, merged = adapted_by_peft(8, 2.0)
    student = load_student(written(tmp_path / "adapted.pth", adapted))
    assert_same_weights(student, load_student(written(tmp_path / "merged.pth", merged)))
    with pytest.raises(WeightsError, match=r"adapter of rank 4; the file does not say its alpha.*adapter_config\.json"):
        load_student(written(tmp_path / "x.pth", adapted_by_peft(4, 1.0)[0]))
    lost = {k: v for k, v in adapted.items() if not k.endswith("enc1.block0.attn.qkv.base_layer.weight")}
    with pytest.raises(WeightsError, match=r"adapters without a layer: .*enc1\.block0"):
        load_student(written(tmp_path / "x.pth", lost))
    magnitude = "module.backbone.enc.base_model.model.enc0.block0.attn.qkv.lora_magnitude_vector.default"
    with pytest.raises(WeightsError, match=r"unexpected enc\.enc0\.block0\.attn\.qkv\.lora_magnitude_vector"):
        load_student(written(tmp_path / "x.pth", adapted | {magnitude: torch.ones(1)}))


@pytest.mark.parametrize(
    ("rank", "config", "scale"),
    [
        (4, {"r": 4, "lora_alpha": 32}, 8.0),
        (8, {"r": 8, "lora_alpha": 4}, 0.5),
        (16, {"r": 16, "lora_alpha": 8, "use_rslora": True, "use_dora": False, "rank_pattern": {}}, 2.0),
    ],
)
def test_pefts_config_beside_the_file_says_the_scale(
    rank: int, config: dict[str, Any], scale: float, tmp_path: Path
) -> None:
    adapted, merged = adapted_by_peft(rank, scale)
    expected = load_student(written(tmp_path / "merged.pth", merged))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    path = written(tmp_path / "adapted.pth", adapted)
    assert is_student(path)
    assert_same_weights(load_student(path), expected)
    assert_same_weights(load_encoder(path), expected.encoder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": 8, "lora_alpha": 16}, "adapter of rank 4, but its adapter_config.json says r = 8, lora_alpha = 16"),
        ({"r": 4}, "says r = 4, lora_alpha = None"),
        ({"r": 4, "lora_alpha": 8, "use_dora": True}, "asks for use_dora; merge it with peft"),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"enc0": 2}}, "asks for alpha_pattern"),
    ],
)
def test_other_configs_of_peft_are_refused(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=rf"x\.pth: .*{message}"):
        load_student(written(tmp_path / "x.pth", adapted_by_peft(4, 1.0)[0]))


WRAPPED = {
    "compiled": lambda state: {"state_dict": {k.replace("module.", "module._orig_mod."): v for k, v in state.items()}},
    "inner": lambda state: {"state_dict": {k.replace("backbone.", "backbone._orig_mod."): v for k, v in state.items()}},
    "lightning": lambda state: {"state_dict": {k.replace("module.", "model."): v for k, v in state.items()}},
    "model": lambda state: {"model": state},
    "nested": lambda state: {"model": {"state_dict": state}, "epoch": 1},
    "ema": lambda state: {"ema_state_dict": state},
    "averaged": lambda state: {"state_dict": {"n_averaged": torch.tensor(3), **state}},
    "bare": lambda state: {k.removeprefix("module."): v for k, v in state.items()},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappers_of_trainers(kind: str, tmp_path: Path) -> None:
    torch.save(WRAPPED[kind](state_of(GOLDEN["chorus-pts"])), tmp_path / "x.pth")
    assert_same_weights(load_student(tmp_path / "x.pth"), load_student(GOLDEN["chorus-pts"]))


def test_averaged_weights_come_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = state_of(GOLDEN["chorus-pts"])
    torch.save({"state_dict": {k: v + 1 for k, v in state.items()}, "state_dict_ema": state}, tmp_path / "x.pth")
    assert_same_weights(load_student(tmp_path / "x.pth"), load_student(GOLDEN["chorus-pts"]))
    assert "takes the averaged weights ('state_dict_ema')" in caplog.text


def test_a_teacher_alone_and_beside_a_student(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = build_encoder("sonata", enc_channels=(16, 32, 48), enc_depths=(1, 1, 1))
    state = {f"module.teacher.backbone.{k}": v for k, v in encoder.state_dict().items()}
    assert_same_weights(load_encoder(written(tmp_path / "t.pth", state), preset="sonata"), encoder)
    other = {f"module.student.backbone.{k}": v + 1 for k, v in encoder.state_dict().items()}
    both = state | other | {"module.student.mask_head.weight": torch.zeros(2)}
    loaded = load_encoder(written(tmp_path / "b.pth", both), preset="sonata")
    assert torch.equal(loaded.embedding.stem["norm"].weight, encoder.embedding.stem["norm"].weight + 1)  # type: ignore[operator]
    assert "tensors of other tasks are left out: student, teacher" in caplog.text


def test_sonata_stays_sonata(tmp_path: Path) -> None:
    encoder = build_encoder("sonata", enc_channels=(16, 16, 32, 32, 48), enc_depths=(1,) * 5, upcast=2)
    export_encoder(encoder, tmp_path / "x.pth", "sonata")
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    del content["chorus_config"]
    torch.save(content, tmp_path / "x.pth")
    loaded = load_encoder(tmp_path / "x.pth")
    assert (loaded.config.name, loaded.out_channels, loaded.config.inputs.color_range) == ("sonata", 112, "unit")
    assert not is_student(tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="holds an encoder alone, without projectors"):
        load_student(tmp_path / "x.pth")


def without(*parts: str) -> Any:
    return lambda state: {k: v for k, v in state.items() if not any(part in k for part in parts)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("projectors.dino"), "has no projector 'dino' .it has lang."),
        (without("projectors.lang"), "has no projector 'lang' .it has dino."),
        (without("lang.mlp_head.2.bias"), "projector 'lang' does not fit.*Missing key.*mlp_head.2.bias"),
        (without("dino.mlp_head.0.weight"), "projector 'dino' has no matrix mlp_head.0.weight"),
        (without("enc3.block0.attn.qkv.bias"), "missing enc.enc3.block0.attn.qkv.bias"),
        (lambda s: s | {"module.projectors.sam.mlp_head.0.weight": torch.ones(4, 144)},
         "projector 'sam' is none that the release trains"),
        (lambda s: s | {"module.foo.bar": torch.ones(1)}, "neither the encoder nor a projector takes foo.bar"),
        (lambda s: s | {"module.backbone.enc.extra": torch.ones(1)}, "unexpected enc.extra"),
        (lambda s: s | {"module.projectors.lang.extra": torch.ones(1)}, "Unexpected key.*extra"),
        (lambda s: {k: v[:, :112] if k.endswith("mlp_head.0.weight") else v for k, v in s.items()},
         "projector '(dino|lang)' takes 112 channels, the encoder's 5 levels give 144"),
        (lambda s: s | {"module.backbone.embedding.stem.linear.weight": torch.ones(16, 6)},
         "its encoder takes 6 channels; the released Chorus takes 11 .chorus-3dgs. or 9"),
        (lambda s: {k: v[..., :30] if "mlp_head.2.weight" in k else v for k, v in s.items()}, "size mismatch"),
    ],
)  # fmt: skip
def test_what_is_no_release_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x.pth", change(state_of(GOLDEN["chorus-3dgs"])))
    with pytest.raises(WeightsError, match=rf"x\.pth: .*{message}") as caught:
        load_student(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file(tmp_path: Path) -> None:
    data = GOLDEN["chorus-3dgs"].read_bytes()
    for size in (100, len(data) // 2, len(data) - 10):
        (tmp_path / "x.pth").write_bytes(data[:size])
        with pytest.raises(WeightsError, match=r"x\.pth: not a readable checkpoint .*fetch it again") as caught:
            load_student(tmp_path / "x.pth")
        assert "\n" not in str(caught.value)


def test_what_has_no_place_in_the_release(tmp_path: Path) -> None:
    ours = Student(
        build_encoder("chorus-lite", enc_channels=(8, 16)),
        {"lang": StudentTeacher(spec="a", fingerprint="b", channels=4, hidden=8)},
    )
    with pytest.raises(WeightsError, match=r"block = 'litept'.*projector 'lang' with norm_hidden.*no teacher 'dino'"):
        export_release(ours, tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()


def test_arguments_beside_weights_as_the_hubs_mixin_leaves_them(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    encoder = build_encoder("utonia", enc_channels=(18, 36, 54), enc_depths=(1, 1, 1), enc_num_head=(1, 2, 3))
    save_file(encoder.state_dict(), tmp_path / "model.safetensors")
    arguments = {"in_channels": 9, "enc_num_head": [1, 2, 3], "rope_base": 100.0, "enc_mode": True}
    (tmp_path / "config.json").write_text(json.dumps(arguments))
    for source in (tmp_path, tmp_path / "model.safetensors"):
        loaded = load_encoder(source)
        assert (loaded.config.enc_rope_freq, loaded.config.rope_position) == ((100.0,) * 3, "coord")
        assert_same_weights(loaded, encoder)
