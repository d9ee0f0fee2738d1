"""Weights in and out: our own folder, and the formats of SceneSplat, PTv3, Sonata, Concerto, Utonia, LitePT and the
released Chorus (whose projectors release.py adds).

    ours         folder with model.safetensors + config.json (an encoder's, or a student's with keys encoder.*)
    arguments    <name>.pth = {"config": constructor arguments, "state_dict": bare keys}        Sonata, Concerto, Utonia
    trainer      <name>.pth = {"state_dict": module.[student.]backbone.*, seg_head.*, ...}      SceneSplat, PTv3, LitePT
    release      <name>.pth = {"state_dict": module.backbone.*, module.projectors.*}            Chorus

Where files come from, and which names stand for one, is hub.py's; how trainers' keys are told apart, state_dicts.py's.
A trainer's file holds no architecture: it is read off the shapes where they tell (widths, depths, decoder, stem,
which stages convolve or attend), and the preset that fits supplies what they do not (heads, patch sizes, pooling
reduce, colour convention), unless `preset` names it. Files that we export carry our whole config as one more entry,
`chorus_config`, which upstream's loaders pass over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, ValidationError
from safetensors.torch import save as save_tensors
from torch import Tensor

from chorus_common.runtime.atomic import write_bytes_atomically, write_text_atomically
from chorus_common.runtime.config import Config, dump_config, first_problem
from chorus_common.runtime.errors import ConfigError, WeightsError
from stage2_distill.encoder.config import EncoderConfig
from stage2_distill.encoder.model import Encoder
from stage2_distill.encoder.presets import PRESETS, preset_config
from stage2_distill.encoder.state_dicts import Parts, split_state
from stage2_distill.encoder.weight_files import PublishedFile, read_published, read_safetensors
from stage2_distill.hub import Origin, locate

#: what upstream's classes have no argument for, by class: PTv3 m1, m2 (Sonata, Concerto, Chorus), m3 (Utonia), LitePT
_M1: dict[str, Any] = {
    "block": "ptv3", "stem": "conv", "stem_kernel": 5, "norm": "batch", "pooling": "serialized",
    "legacy_decoder_cpe": True, "input_norm": False, "rope_position": "grid",
}  # fmt: skip
_M2 = _M1 | {"stem": "linear", "norm": "layer", "pooling": "grid", "legacy_decoder_cpe": False, "pool_reduce": "max"}
#: channels of a head in the released Chorus, at every level
RELEASE_HEAD = 16
_M3 = _M2 | {"rope_position": "coord"}
_LITEPT = _M2 | {"block": "litept", "stem": "conv", "norm": "batch"}


@dataclass(frozen=True)
class Format:
    """How a model is published: the file's layout, and the classes that read it (settings they fix)."""

    layout: Literal["folder", "arguments", "trainer"]
    classes: tuple[dict[str, Any], ...] = ()


#: formats that `export_encoder` writes
FORMATS = {
    "chorus": Format("folder"),
    "sonata": Format("arguments", (_M2,)),
    "concerto": Format("arguments", (_M2,)),
    "utonia": Format("arguments", (_M3,)),
    "trainer": Format("trainer", (_M1, _M2, _M3, _LITEPT)),
    "scenesplat": Format("trainer", (_M1 | {"pool_reduce": "mean"},)),
    "ptv3": Format("trainer", (_M1 | {"pool_reduce": "max"},)),
    "litept": Format("trainer", (_LITEPT,)),
}


class EncoderFolder(Config):
    """Contents of an encoder folder's config.json."""

    format: Literal["chorus-encoder"] = "chorus-encoder"
    schema_version: Literal[1] = 1
    encoder: EncoderConfig
    origin: Origin | None = None


class FolderHeader(Config):
    """What the config.json of an encoder's folder and that of a student's (student.py) have in common."""

    model_config = ConfigDict(extra="ignore")

    format: Literal["chorus-encoder", "chorus-student"]
    schema_version: Literal[1]
    encoder: EncoderConfig
    origin: Origin | None = None


def load_encoder(source: str | Path, *, preset: str | None = None, **overrides: Any) -> Encoder:
    """The encoder of `source` in eval mode on the CPU: of a folder of ours, a published .pth / .safetensors, or weights
    by name (`hub.locate`: "sonata", "hf:OWNER/REPO/FILE"). Of a student, its encoder alone.

    Args:
        preset, overrides: the architecture, for files that do not carry one (see the module's docstring).

    Raises WeightsError naming the file and every key that is missing, unexpected or of another shape.
    """
    found = locate(source)
    path = found.path
    if path.is_dir() and not is_own_folder(path):
        path = path / "model.safetensors"  # weights with constructor arguments beside them, by the hub's mixin
        found = replace(found, path=path)
    if path.is_dir():
        if preset is not None or overrides:
            raise WeightsError(f"{path}: this folder says itself what its encoder is; leave out the preset")
        header = read_folder_header(path)
        config, found = header.encoder, replace(found, made_from=header.origin)
        tensors = read_safetensors(path / "model.safetensors")
        if any(k.startswith("encoder.") for k in tensors):
            tensors = {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")}
    else:
        file = read_published(path)
        parts = split_state(file.tensors, path, file.adapter)
        tensors = parts.trunk
        if parts.projectors and preset is None and file.record is None:
            config = release_config(parts, path, **overrides)
        else:
            config = _file_config(file, tensors, preset, path, overrides)
    encoder = Encoder(config)
    load_weights(encoder, tensors, path)
    encoder.source = found
    return encoder.eval()


def is_own_folder(path: Path) -> bool:
    """Whether a folder is one of ours, or holds nothing that could be another's."""
    try:
        content = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True  # the reader says what is wrong with it
    return not isinstance(content, dict) or "format" in content or "encoder" in content or not content


def load_weights(encoder: Encoder, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy `tensors` (keys and layouts as in `encoder.state_dict()`) into `encoder`; WeightsError names what does
    not fit.
    """
    own = encoder.state_dict()
    problems = []
    for title, keys in (("missing", own.keys() - tensors.keys()), ("unexpected", tensors.keys() - own.keys())):
        if keys:
            shown = sorted(keys)
            problems.append(f"{title} {', '.join(shown[:6])}{f' and {len(shown) - 6} more' if len(shown) > 6 else ''}")
    wrong = [
        f"{k} is {tuple(tensors[k].shape)}, expected {tuple(v.shape)}"
        for k, v in own.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    if wrong:
        problems.append(f"{'; '.join(wrong[:4])}{f' and {len(wrong) - 4} more' if len(wrong) > 4 else ''}")
    if problems:
        raise WeightsError(f"{source}: weights do not fit encoder {encoder.config.name}: {'; '.join(problems)}")
    try:
        encoder.load_state_dict(dict(tensors))
    except RuntimeError as error:  # the right shapes of a kind that cannot be copied
        raise WeightsError(f"{source}: {' '.join(str(error).split())[:200]}") from None


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Upstream's state dict with our keys: prefixes stripped, adapters merged, parts of other tasks left out, kernels
    in (out, k, k, k, in) (`state_dicts.split_state`).

    Our modules carry upstream's names, so bare keys pass unchanged.
    """
    return split_state(state, "state dict").trunk


def export_encoder(encoder: Encoder, path: str | Path, format: str = "chorus") -> None:
    """Write `encoder`.

    Args:
        format: one of `FORMATS`. "chorus" = a folder of ours; "sonata", "concerto" or "utonia" = one .pth with
            constructor arguments and bare keys; "trainer" (or "scenesplat", "ptv3", "litept") = one .pth with keys
            module.backbone.*.

    Raises WeightsError where the encoder is none that the format's upstream class could build.
    """
    path = Path(path)
    if format not in FORMATS:
        raise WeightsError(f"unknown export format '{format}'; known: {', '.join(FORMATS)}")
    _check_published(encoder.config, format)
    state = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    layout, record = FORMATS[format].layout, encoder.config.model_dump(mode="json")
    if layout == "folder":
        origin = None if encoder.source is None else encoder.source.lineage()
        folder = EncoderFolder(encoder=encoder.config, origin=origin)
        write_text_atomically(path / "config.json", dump_config(folder))
        write_bytes_atomically(path / "model.safetensors", save_tensors(state))
    elif layout == "arguments":
        arguments = constructor_arguments(encoder.config)
        _save_pth({"config": arguments, "state_dict": state, "chorus_config": record}, path)
    else:
        _save_pth({"state_dict": {f"module.backbone.{k}": v for k, v in state.items()}, "chorus_config": record}, path)


def _check_published(config: EncoderConfig, format: str) -> None:
    """Refuse settings that upstream's class for `format` does not have, naming what the nearest class would need."""
    classes = FORMATS[format].classes
    if not classes:
        return
    differing = [[k for k, v in fixed.items() if getattr(config, k) != v] for fixed in classes]
    nearest = min(range(len(classes)), key=lambda i: len(differing[i]))
    wrong = [f"{k} = {getattr(config, k)!r} (there: {classes[nearest][k]!r})" for k in differing[nearest]]
    parts = [config.enc_conv, config.enc_attn] + ([] if config.enc_mode else [config.dec_conv, config.dec_attn])
    if config.block == "ptv3" and not all(map(all, parts)):
        wrong.append("stages without convolution or without attention")
    if wrong:
        raise WeightsError(
            f"encoder {config.name} has no counterpart among the published models of format '{format}': "
            f"{', '.join(wrong)}; export it as 'chorus'"
        )


def constructor_arguments(config: EncoderConfig) -> dict[str, Any]:
    """Upstream's constructor arguments for `config`, as plain Python values."""
    names = [
        "in_channels", "order", "stride", "enc_depths", "enc_channels", "enc_num_head", "enc_patch_size", "dec_depths",
        "dec_channels", "dec_num_head", "dec_patch_size", "mlp_ratio", "qkv_bias", "drop_path", "layer_scale",
        "shuffle_orders", "enable_flash", "mask_token", "enc_mode",
    ]  # fmt: skip
    if config.block == "litept":
        names += ["enc_conv", "enc_attn", "enc_rope_freq", "dec_conv", "dec_attn", "dec_rope_freq"]
    data = config.model_dump()
    arguments = {name: data[name] for name in names}
    if config.rope_position == "coord" and config.enc_rope_freq is not None:
        arguments |= {
            "rope_base": config.enc_rope_freq[0],
            "jitter_coords": config.rope_jitter,
            "rescale_coords": config.rope_rescale,
        }
    return arguments


def read_folder_header(path: Path) -> FolderHeader:
    """config.json of an encoder's or a student's folder. Raises WeightsError where it is missing, damaged or of another
    format or schema.
    """
    file = path / "config.json"
    try:
        return FolderHeader.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise WeightsError(
            f"{file}: no such file; an encoder's folder holds config.json and model.safetensors"
        ) from None
    except ValidationError as error:
        raise WeightsError(f"{file}: not an encoder's config ({first_problem(FolderHeader, error)[:200]})") from None
    except ValueError as error:
        raise WeightsError(f"{file}: not an encoder's config ({' '.join(str(error).split())[:160]})") from None


def _file_config(
    file: PublishedFile, tensors: Mapping[str, Tensor], preset: str | None, path: Path, overrides: dict[str, Any]
) -> EncoderConfig:
    """Architecture of a published file: our record of it, upstream's arguments, or what the shapes say; each on top of
    `preset` or the preset that fits.
    """
    try:
        if file.record is not None and preset is None:
            return EncoderConfig.model_validate(file.record | overrides)
        shapes = _read_off(tensors, path)
        arguments = {k: v for k, v in (file.arguments or {}).items() if k != "type"}
        preset = preset or _matching_preset(tensors, path, any_width=file.arguments is not None)
        return preset_config(preset, **(shapes | arguments | overrides))
    except (ConfigError, ValidationError) as error:
        raise WeightsError(f"{path}: {' '.join(str(error).split())[:300]}") from None


def _read_off(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Constructor arguments that the keys and shapes of a state dict determine."""
    stem = next((k for k in ("embedding.stem.conv.weight", "embedding.stem.linear.weight") if k in tensors), None)
    if stem is None:
        raise WeightsError(
            f"{path}: no encoder inside (no key 'embedding.stem.*'); keys start with {next(iter(tensors), 'nothing')!r}"
        )

    def size(key: str, axis: int) -> int:
        shape = tensors[key].shape
        if not -len(shape) <= axis < len(shape) or shape[axis] == 0:
            raise WeightsError(f"{path}: {key} is {tuple(shape)}, which is no weight of an encoder")
        return int(shape[axis])

    def depth(prefix: str) -> int:
        return len({k[len(prefix) :].split(".")[0] for k in tensors if k.startswith(f"{prefix}block")})

    def parts(side: str, stages: int, names: tuple[str, ...]) -> tuple[bool, ...]:
        """Which stages have blocks with one of the parts `names`; a stage without blocks has none."""
        of_stage = [[k for k in tensors if k.startswith(f"{side}.{side}{s}.block")] for s in range(stages)]
        return tuple(any(f".{name}." in k for k in keys for name in names) for keys in of_stage)

    channels = [size(stem, 0)]
    while (down := f"enc.enc{len(channels)}.down.proj.weight") in tensors:
        channels.append(size(down, 0))
    stages = len(channels)
    convolution, attention = ("cpe", "conv"), ("attn",)
    out: dict[str, Any] = {
        "in_channels": size(stem, -1),
        "enc_channels": tuple(channels),
        "enc_depths": tuple(depth(f"enc.enc{s}.") for s in range(stages)),
        "enc_conv": parts("enc", stages, convolution),
        "enc_attn": parts("enc", stages, attention),
        "enc_mode": not any(k.startswith("dec.") for k in tensors),
        "mask_token": "embedding.mask_token" in tensors,
    }
    if tensors[stem].ndim == 5:
        out["stem_kernel"] = size(stem, 1)
    if not out["enc_mode"]:
        ups = [f"dec.dec{s}.up.proj.0.weight" for s in range(stages - 1)]
        if missing := [key for key in ups if key not in tensors]:
            raise WeightsError(f"{path}: missing {', '.join(missing)}")
        out["dec_channels"] = tuple(size(key, 0) for key in ups)
        out["dec_depths"] = tuple(depth(f"dec.dec{s}.") for s in range(stages - 1))
        out["dec_conv"] = parts("dec", stages - 1, convolution)
        out["dec_attn"] = parts("dec", stages - 1, attention)
    attending = next((k.removesuffix("attn.qkv.weight") for k in tensors if k.endswith(".attn.qkv.weight")), None)
    if attending is not None:
        out["qkv_bias"] = f"{attending}attn.qkv.bias" in tensors
        if f"{attending}ls1.0.gamma" in tensors:
            out["layer_scale"] = 1.0  # the start value in training; the file holds what it became
        if (hidden := f"{attending}mlp.0.fc1.weight") in tensors:
            out["mlp_ratio"] = size(hidden, 0) / size(hidden, 1)
    return out


def release_config(parts: Parts, path: Path, **overrides: Any) -> EncoderConfig:
    """Config of the trunk of a file in the released Chorus's layout, of any width (heads have 16 channels there).

    Raises WeightsError where trunk and projectors do not belong together.
    """
    shapes = _read_off(parts.trunk, path)
    channels = shapes["enc_channels"]
    modes = {PRESETS[name].in_channels: name for name in ("chorus-3dgs", "chorus-pts")}
    if "embedding.stem.linear.weight" not in parts.trunk or not shapes["enc_mode"]:
        raise WeightsError(
            f"{path}: has projectors, so should be a released Chorus, whose encoder has a linear stem and no decoder; "
            "this one is another architecture"
        )
    if shapes["in_channels"] not in modes:
        raise WeightsError(
            f"{path}: its encoder takes {shapes['in_channels']} channels; the released Chorus takes "
            f"{' or '.join(f'{n} ({name})' for n, name in modes.items())}"
        )
    for teacher, tensors in parts.projectors.items():
        width = _projector_width(teacher, tensors, path)
        if width != sum(channels):
            raise WeightsError(
                f"{path}: projector '{teacher}' takes {width} channels, the encoder's {len(channels)} levels give "
                f"{sum(channels)}"
            )
    num_heads = tuple(max(1, c // RELEASE_HEAD) for c in channels)
    try:
        known = {"enc_num_head": num_heads, "upcast": len(channels) - 1}
        return preset_config(modes[shapes["in_channels"]], **(shapes | known | overrides))
    except ConfigError as error:
        raise WeightsError(f"{path}: {' '.join(str(error).split())[:300]}") from None


def _projector_width(teacher: str, tensors: Mapping[str, Tensor], path: Path) -> int:
    first = tensors.get("mlp_head.0.weight")
    if first is None or first.ndim != 2:
        raise WeightsError(f"{path}: projector '{teacher}' has no matrix mlp_head.0.weight")
    return int(first.shape[1])


def _matching_preset(tensors: Mapping[str, Tensor], path: Path, *, any_width: bool) -> str:
    """The published preset with the kind of stem and block, the widths and the decoder that a state dict shows.

    any_width: the file says itself what shapes do not tell, so a model of another width may take the conventions of
    its kind (Concerto-small: Sonata's).
    """
    shapes = _read_off(tensors, path)
    litept = any(".norm0." in k or ".conv.0." in k for k in tensors)
    linear = "embedding.stem.linear.weight" in tensors
    rotary = any(k.endswith(".attn.rope.inv_freq") for k in tensors)
    kind = [
        n
        for n, c in PRESETS.items()
        if (c.block == "litept", c.stem == "linear", c.rope_position == "coord") == (litept, linear, rotary)
    ]
    exact = [n for n in kind if PRESETS[n].enc_channels == shapes["enc_channels"]]
    decoders = [n for n in exact if not shapes["enc_mode"] and PRESETS[n].dec_depths == shapes["dec_depths"]]
    for found in (decoders, exact, kind if any_width else []):
        if found:
            return found[0]
    raise WeightsError(
        f"{path}: widths {shapes['enc_channels']} belong to no published preset; "
        "name one (preset=..., --preset) and, from Python, the constructor arguments it was made with"
    )


def _save_pth(content: dict[str, Any], path: Path) -> None:
    import io

    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes_atomically(path, buffer.getvalue())
