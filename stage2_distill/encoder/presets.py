"""Architectures by name, each a typed config, and how overrides change them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError, create_model

from chorus_common.runtime.config import Config, first_problem
from chorus_common.runtime.errors import ConfigError
from stage2_distill.encoder.config import EncoderConfig, InputConfig
from stage2_distill.encoder.model import Encoder

_GAUSSIANS = InputConfig()
_COLOR_NORMAL = InputConfig(features=("color", "normal"), color_range="unit")
_SONATA = InputConfig(features=("coord", "color", "normal"), color_range="unit")
#: Utonia's `default(scale=0.5)`: rooms at half size, voxels of 0.01 of that, zeros where there are no normals
_UTONIA_ROOMS = _SONATA.model_copy(update={"coord_scale": 0.5, "normals": "zeros"})

_PTV3 = EncoderConfig(name="ptv3", inputs=_COLOR_NORMAL, in_channels=6, legacy_decoder_cpe=True)

_SONATA_BASE = EncoderConfig(
    name="sonata", inputs=_SONATA, in_channels=9,
    enc_depths=(3, 3, 3, 12, 3), enc_channels=(48, 96, 192, 384, 512), enc_num_head=(3, 6, 12, 24, 32),
    dec_channels=(64, 96, 192, 384), dec_num_head=(4, 6, 12, 24),
    stem="linear", norm="layer", pooling="grid", enc_mode=True,
)  # fmt: skip


def _chorus(name: str, inputs: InputConfig) -> EncoderConfig:
    """The released Chorus (GaussianWorld/Chorus): Sonata's class, all five levels side by side (1232 channels)."""
    return _SONATA_BASE.model_copy(
        update={"name": name, "inputs": inputs, "in_channels": inputs.channels, "upcast": 4, "drop_path": 0.3}
    )


def _utonia(
    name: str, depths: tuple[int, ...], channels: tuple[int, ...], num_heads: tuple[int, ...], upcast: int
) -> EncoderConfig:
    """Utonia (Pointcept 1.7, PT-v3m3): Sonata's class with a rotary encoding of the coordinates, heads of 18 channels.

    The decoder's widths, which no release uses, follow the encoder's.
    """
    return _SONATA_BASE.model_copy(
        update={
            "name": name, "inputs": _UTONIA_ROOMS, "enc_depths": depths, "enc_channels": channels,
            "enc_num_head": num_heads, "dec_channels": channels[:-1], "dec_num_head": num_heads[:-1], "upcast": upcast,
            "enc_rope_freq": (10.0,) * 5, "dec_rope_freq": (10.0,) * 4, "rope_position": "coord",
            "rope_jitter": 1.1, "rope_rescale": 1.2,
        }
    )  # fmt: skip


def _litept(
    name: str, channels: tuple[int, ...], num_heads: tuple[int, ...], depths: tuple[int, ...], dec: tuple[int, ...]
) -> EncoderConfig:
    return EncoderConfig(
        name=name, inputs=_COLOR_NORMAL, in_channels=6, block="litept", pooling="grid",
        enc_depths=depths, enc_channels=channels, enc_num_head=num_heads,
        enc_conv=(True, True, True, False, False), enc_attn=(False, False, False, True, True),
        enc_rope_freq=(100.0,) * 5,
        dec_depths=(0, 0, 0, 0), dec_channels=dec, dec_num_head=tuple(c // 18 for c in dec),
        dec_conv=(False,) * 4, dec_attn=(False,) * 4, dec_rope_freq=(100.0,) * 4,
    )  # fmt: skip


_LITEPT_S = _litept("litept-s", (36, 72, 144, 252, 504), (2, 4, 8, 14, 28), (2, 2, 2, 6, 2), (72, 72, 144, 252))

#: Published architectures (parameter counts in docs/design/encoder.md) and `chorus-lite`, ours: convolution where
#: voxels are many, attention where they are few, and one width for the whole decoder, from which the projectors start.
PRESETS: dict[str, EncoderConfig] = {
    "ptv3": _PTV3,
    "scenesplat": EncoderConfig(
        name="scenesplat", inputs=_GAUSSIANS, in_channels=11, stride=(2, 2, 2),
        enc_depths=(2, 2, 2, 6), enc_channels=(32, 64, 128, 256), enc_num_head=(2, 4, 8, 16),
        enc_patch_size=(1024,) * 4,
        enc_conv=(True,) * 4, enc_attn=(True,) * 4,
        dec_depths=(2, 2, 2), dec_channels=(768, 512, 256), dec_num_head=(16, 16, 16), dec_patch_size=(1024,) * 3,
        dec_conv=(True,) * 3, dec_attn=(True,) * 3,
        pool_reduce="mean", depth_rule="max", legacy_decoder_cpe=True,
    ),
    "sonata": _SONATA_BASE,
    "concerto-small": _SONATA_BASE.model_copy(
        update={
            "name": "concerto-small", "enc_depths": (2, 2, 2, 6, 2), "enc_channels": (32, 64, 128, 256, 512),
            "enc_num_head": (2, 4, 8, 16, 32), "dec_channels": (64, 64, 128, 256), "dec_num_head": (4, 4, 8, 16),
        }
    ),
    "concerto-base": _SONATA_BASE.model_copy(update={"name": "concerto-base"}),
    "concerto-large": _SONATA_BASE.model_copy(
        update={"name": "concerto-large", "enc_channels": (64, 128, 256, 512, 768), "enc_num_head": (4, 8, 16, 32, 48)}
    ),
    "chorus-3dgs": _chorus(
        "chorus-3dgs", _GAUSSIANS.model_copy(update={"scale_clip": None}),
    ),
    "chorus-pts": _chorus(
        "chorus-pts", _SONATA.model_copy(update={"color_range": "symmetric"}),
    ),
    "utonia": _utonia("utonia", (3, 3, 3, 12, 3), (54, 108, 216, 432, 576), (3, 6, 12, 24, 32), 4),
    "utonia-small": _utonia("utonia-small", (2, 2, 2, 6, 2), (36, 72, 144, 288, 432), (2, 4, 8, 16, 24), 3),
    "utonia-tiny": _utonia("utonia-tiny", (2, 2, 2, 6, 2), (18, 36, 72, 144, 216), (1, 2, 4, 8, 12), 3),
    "litept-s": _LITEPT_S,
    "litept-s-star": _LITEPT_S.model_copy(
        update={
            "name": "litept-s-star", "dec_depths": (2, 2, 2, 2),
            "dec_conv": (True, True, True, False), "dec_attn": (False, False, False, True),
        }
    ),
    "litept-b": _litept(
        "litept-b", (54, 108, 216, 432, 576), (3, 6, 12, 24, 32), (3, 3, 3, 12, 3), (72, 108, 216, 432)
    ),
    "litept-l": _litept(
        "litept-l", (72, 144, 288, 576, 864), (4, 8, 16, 32, 48), (3, 3, 3, 12, 3), (72, 144, 288, 576)
    ),
    "chorus-lite": EncoderConfig(
        name="chorus-lite", inputs=_GAUSSIANS, in_channels=11, block="litept", stem="linear", norm="layer",
        pooling="grid", depth_rule="max",
        enc_depths=(2, 2, 2, 6, 2), enc_channels=(48, 96, 192, 288, 384), enc_num_head=(1, 2, 4, 6, 8),
        enc_conv=(True, True, True, False, False), enc_attn=(False, False, False, True, True),
        enc_rope_freq=(100.0,) * 5,
        dec_depths=(0, 0, 0, 0), dec_channels=(256,) * 4, dec_num_head=(8,) * 4,
        dec_conv=(True, True, True, False), dec_attn=(False, False, False, True), dec_rope_freq=(100.0,) * 4,
    ),
}  # fmt: skip

#: Upstream's constructor arguments that have one value here, and the values under which upstream computes the same
#: thing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "qk_scale": (None,), "attn_drop": (0, 0.0), "proj_drop": (0, 0.0), "pre_norm": (True,), "enable_rpe": (False,),
    "upcast_attention": (True, False), "upcast_softmax": (True, False), "traceable": (True, False),
    "shift_coords": (None,), "freeze_encoder": (False,), "pdnorm_bn": (False,), "pdnorm_ln": (False,),
    "pdnorm_decouple": (True, False), "pdnorm_adaptive": (True, False), "pdnorm_affine": (True, False),
}  # fmt: skip
#: Feature channels -> input attributes, for overrides that give `in_channels` alone.
_KNOWN_INPUTS = {
    3: ("color",),
    6: ("color", "normal"),
    9: ("coord", "color", "normal"),
    11: _GAUSSIANS.features,
    14: (*_GAUSSIANS.features, "normal"),
}
#: EncoderConfig without its checks of several fields together: overrides must each be of their type before anything is
#: derived from them.
_FIELDS: dict[str, Any] = {
    n: (field.rebuild_annotation(), field.default) for n, field in EncoderConfig.model_fields.items()
}
_Overrides = create_model("_Overrides", __base__=Config, **_FIELDS)


def build_encoder(preset: str, **overrides: Any) -> Encoder:
    """A freshly initialised encoder (torch's global generator) of a preset with overrides.

    `overrides` are fields of `EncoderConfig`, or upstream's constructor arguments; see `preset_config`.

    >>> encoder = build_encoder("scenesplat", enc_channels=(24, 36, 48), enc_patch_size=(32, 32, 32))
    >>> len(encoder.config.enc_depths), encoder.out_channels
    (3, 768)
    """
    return Encoder(preset_config(preset, **overrides))


def preset_config(preset: str, **overrides: Any) -> EncoderConfig:
    """Config of a preset with overrides.

    Where `enc_channels` changes, what depends on it and is not given follows: heads from the width of a head, the
    decoder's widths, and, for another number of stages, depths, strides, patch sizes and which stages convolve or
    attend.

    Raises ConfigError naming the override that is unknown, of the wrong kind or at odds with the others.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown encoder preset '{preset}'; known: {', '.join(PRESETS)}")
    base = PRESETS[preset]
    for key in ("pdnorm_conditions",):
        overrides.pop(key, None)
    if "cls_mode" in overrides:  # m1's name for it
        overrides["enc_mode"] = overrides.pop("cls_mode")
    for key, values in _NEUTRAL.items():
        if key in overrides and overrides.pop(key) not in values:
            raise ConfigError(f"encoder {preset}: {key} is supported with {' or '.join(map(str, values))} only")
    for theirs, ours in (("jitter_coords", "rope_jitter"), ("rescale_coords", "rope_rescale")):  # m3's names
        if theirs in overrides:
            overrides[ours] = overrides.pop(theirs)
    if (rope_base := overrides.pop("rope_base", None)) is not None:  # m3's name: one base for all stages
        overrides |= {"enc_rope_freq": (rope_base,) * _stages(base, overrides)}
        overrides |= {"dec_rope_freq": overrides["enc_rope_freq"][1:]}
    if overrides.get("mask_token") is not None:
        overrides["mask_token"] = bool(overrides["mask_token"])
    if isinstance(overrides.get("inputs"), Mapping):
        overrides["inputs"] = base.inputs.model_dump() | dict(overrides["inputs"])
    try:
        checked = _Overrides.model_validate(overrides).model_dump(exclude_unset=True)
        return EncoderConfig.model_validate(base.model_dump() | _derived(base, checked) | checked)
    except ValidationError as error:
        raise ConfigError(f"encoder {preset}: {first_problem(EncoderConfig, error)}") from None


def _stages(base: EncoderConfig, overrides: Mapping[str, Any]) -> int:
    """Number of stages that `overrides` ask for, malformed ones taken as the preset's."""
    channels = overrides.get("enc_channels", base.enc_channels)
    return len(channels) if isinstance(channels, list | tuple) else len(base.enc_channels)


def _derived(base: EncoderConfig, overrides: dict[str, Any]) -> dict[str, Any]:
    """Fields that follow from `overrides` (each of its type) without being named in them."""
    out: dict[str, Any] = {}
    if "inputs" in overrides and "in_channels" not in overrides:
        out["in_channels"] = InputConfig.model_validate(overrides["inputs"]).channels
    elif "in_channels" in overrides and "inputs" not in overrides and overrides["in_channels"] in _KNOWN_INPUTS:
        out["inputs"] = base.inputs.model_copy(
            update={"features": _KNOWN_INPUTS[overrides["in_channels"]], "indicator": False}
        ).model_dump()
    if "enc_channels" not in overrides and "enc_depths" not in overrides:
        return out
    channels = tuple(overrides.get("enc_channels", base.enc_channels))
    n, old = len(channels), len(base.enc_channels)
    if n != old:
        for name, value in base:
            if not isinstance(value, tuple) or name in (
                "order",
                "enc_channels",
                "dec_channels",
                "enc_num_head",
                "dec_num_head",
            ):
                continue
            if name.startswith("enc_"):
                out[name] = _resized(value, n)
            elif name.startswith("dec_") or name == "stride":
                out[name] = _resized(value, n - 1)
        if base.block == "litept":  # attention in the last two stages of four or more, else in the last one
            late = 2 if n > 3 else 1
            out["enc_conv"] = (True,) * (n - late) + (False,) * late
            out["enc_attn"] = (False,) * (n - late) + (True,) * late
    if channels != base.enc_channels:
        if base.dec_channels == (base.dec_channels[0],) * len(base.dec_channels):
            width = min(base.dec_channels[0], max(channels))
            dec = (width,) * (n - 1)
        else:
            dec = (base.dec_channels[0], *channels[1:-1])[: n - 1]
        dec = tuple(overrides.get("dec_channels", dec))
        out["dec_channels"] = dec
        head_dim = base.enc_channels[-1] // base.enc_num_head[-1]
        out["enc_num_head"] = tuple(_heads(c, head_dim) for c in channels)
        out["dec_num_head"] = tuple(_heads(c, head_dim) for c in dec)
    return out


def _resized(values: tuple[Any, ...], n: int) -> tuple[Any, ...]:
    """First n entries, the last one repeated where there are fewer."""
    return (values + values[-1:] * n)[:n]


def _heads(channels: int, head_dim: int) -> int:
    """Fewest heads that divide `channels` and are not wider than `head_dim`."""
    return next(h for h in range(1, channels + 1) if channels % h == 0 and channels // h <= head_dim)
