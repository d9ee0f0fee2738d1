"""Weights in and out: our own folder, and the formats of SceneSplat, PTv3, Sonata, Concerto and LitePT.

    ours         folder with model.safetensors + config.json (an encoder's, or a student's with keys encoder.*)
    released     <name>.pth = {"config": constructor arguments, "state_dict": bare keys}        Sonata, Concerto
    trainer      <name>.pth = {"state_dict": module.[student.]backbone.*, seg_head.*, ...}      SceneSplat, PTv3, LitePT

A trainer's file holds no architecture: it is read off the shapes where they tell (widths, depths, decoder, stem,
norms), and the preset that fits supplies what they do not (heads, patch sizes, pooling reduce, colour convention),
unless `preset` names it. Every .pth is read with weights_only=True.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from chorus_common.atomic import write_bytes_atomically, write_text_atomically
from chorus_common.config import Config, dump_config
from chorus_common.errors import WeightsError
from stage2_distill.encoder.config import EncoderConfig
from stage2_distill.encoder.model import Encoder
from stage2_distill.encoder.presets import PRESETS, preset_config

#: longest first: what trainers put before an encoder's keys
PREFIXES = ("module.student.backbone.", "student.backbone.", "module.backbone.", "backbone.", "module.", "")
#: formats that `export_encoder` writes
FORMATS = ("chorus", "released", "trainer")


class EncoderFolder(Config):
    """Contents of an encoder folder's config.json."""

    format: str = "chorus-encoder"
    schema_version: int = 1
    encoder: EncoderConfig


def load_encoder(path: str | Path, *, preset: str | None = None, **overrides: Any) -> Encoder:
    """The encoder stored at `path` (a folder of ours, or a published .pth / .safetensors), in eval mode on the CPU.

    Args:
        preset, overrides: the architecture, for files that do not carry one (see the module's docstring).

    Raises WeightsError naming the file and every key that is missing, unexpected or of another shape.
    """
    path = Path(path)
    if path.is_dir():
        config = _folder_config(path)
        tensors = _read_safetensors(path / "model.safetensors")
        if any(k.startswith("encoder.") for k in tensors):
            tensors = {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")}
    else:
        tensors, arguments = _read_file(path)
        tensors = convert(tensors)
        if preset is None and arguments is None:
            preset = _matching_preset(tensors, path)
        config = _file_config(tensors, arguments, preset, path, overrides)
    encoder = Encoder(config)
    load_weights(encoder, tensors, path)
    return encoder.eval()


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
    encoder.load_state_dict(dict(tensors))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Upstream's state dict with our keys: prefixes stripped, heads of other tasks dropped, kernels in (out, k, k,
    k, in).

    Our modules carry upstream's names, so bare keys pass unchanged. Kernels in the layout of spconv 1.x, (k, k, k,
    in, out), are permuted.
    """
    prefix = next(p for p in PREFIXES if any(k.startswith(f"{p}embedding.") for k in state) or p == "")
    out = {}
    for key, value in state.items():
        if not key.startswith(prefix):
            continue  # another part of the trainer's model: seg_head, teacher, criteria
        if value.ndim == 5 and value.shape[0] == value.shape[1] == value.shape[2] and value.shape[1] != value.shape[3]:
            value = value.permute(4, 0, 1, 2, 3).contiguous()
        out[key.removeprefix(prefix)] = value
    return out


def export_encoder(encoder: Encoder, path: str | Path, format: str = "chorus") -> None:
    """Write `encoder`.

    Args:
        format: "chorus" = a folder of ours; "released" = one .pth with constructor arguments and bare keys (Sonata,
            Concerto); "trainer" = one
            .pth with keys module.backbone.* (SceneSplat, PTv3, LitePT).
    """
    path = Path(path)
    state = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    if format == "chorus":
        folder = EncoderFolder(encoder=encoder.config)
        write_text_atomically(path / "config.json", dump_config(folder))
        write_bytes_atomically(path / "model.safetensors", save_tensors(state))
    elif format == "released":
        _save_pth({"config": constructor_arguments(encoder.config), "state_dict": state}, path)
    elif format == "trainer":
        _save_pth({"state_dict": {f"module.backbone.{k}": v for k, v in state.items()}}, path)
    else:
        raise WeightsError(f"unknown export format '{format}'; known: {', '.join(FORMATS)}")


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
    return {name: data[name] for name in names}


def _folder_config(path: Path) -> EncoderConfig:
    file = path / "config.json"
    try:
        return EncoderConfig.model_validate(json.loads(file.read_text(encoding="utf-8"))["encoder"])
    except FileNotFoundError:
        raise WeightsError(
            f"{file}: no such file; an encoder's folder holds config.json and model.safetensors"
        ) from None
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise WeightsError(f"{file}: not an encoder's config ({' '.join(str(error).split())[:160]})") from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(path.read_bytes())
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a valid safetensors file ({error})") from None


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """(state dict, constructor arguments or None) of a published file."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path), None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: holds more than tensors and is not loaded ({str(error).splitlines()[0][:120]})"
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise WeightsError(f"{path}: not a readable checkpoint ({' '.join(str(error).split())[:120]})") from None
    arguments = content.get("config") if isinstance(content, dict) else None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path}: holds no state dict")
    return dict(state), dict(arguments) if isinstance(arguments, dict) else None


def _file_config(
    tensors: Mapping[str, Tensor],
    arguments: dict[str, Any] | None,
    preset: str | None,
    path: Path,
    overrides: dict[str, Any],
) -> EncoderConfig:
    """Architecture of a published file: its own arguments, or what the shapes say on top of `preset`."""
    shapes = _read_off(tensors, path)
    if arguments is not None:
        if preset is None:
            preset = _matching_preset(tensors, path)
        known = set(EncoderConfig.model_fields) | {"cls_mode"}
        return preset_config(preset, **(shapes | {k: v for k, v in arguments.items() if k in known} | overrides))
    assert preset is not None
    return preset_config(preset, **(shapes | overrides))


def _read_off(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Constructor arguments that the keys and shapes of a state dict determine."""
    stem = tensors.get("embedding.stem.conv.weight", tensors.get("embedding.stem.linear.weight"))
    if stem is None:
        raise WeightsError(
            f"{path}: no encoder inside (no key 'embedding.stem.*'); keys start with {next(iter(tensors), 'nothing')!r}"
        )

    def depth(prefix: str) -> int:
        return len({k[len(prefix) :].split(".")[0] for k in tensors if k.startswith(f"{prefix}block")})

    channels = [int(stem.shape[0])]
    while f"enc.enc{len(channels)}.down.proj.weight" in tensors:
        channels.append(int(tensors[f"enc.enc{len(channels)}.down.proj.weight"].shape[0]))
    stages = len(channels)
    out: dict[str, Any] = {
        "in_channels": int(stem.shape[-1]),
        "enc_channels": tuple(channels),
        "enc_depths": tuple(depth(f"enc.enc{s}.") for s in range(stages)),
        "enc_mode": not any(k.startswith("dec.") for k in tensors),
        "mask_token": "embedding.mask_token" in tensors,
    }
    if not out["enc_mode"]:
        out["dec_channels"] = tuple(int(tensors[f"dec.dec{s}.up.proj.0.weight"].shape[0]) for s in range(stages - 1))
        out["dec_depths"] = tuple(depth(f"dec.dec{s}.") for s in range(stages - 1))
    return out


def _matching_preset(tensors: Mapping[str, Tensor], path: Path) -> str:
    """The published preset with the kind of stem, block, norm and the widths that a state dict shows."""
    shapes = _read_off(tensors, path)
    litept = any(".norm0." in k or ".conv.0." in k for k in tensors)
    linear = "embedding.stem.linear.weight" in tensors
    candidates = [
        name
        for name, config in PRESETS.items()
        if (config.block == "litept", config.stem == "linear", len(config.enc_channels))
        == (litept, linear, len(shapes["enc_channels"]))
    ]
    exact = [n for n in candidates if PRESETS[n].enc_channels == shapes["enc_channels"]]
    decoders = [n for n in exact if not shapes["enc_mode"] and PRESETS[n].dec_depths == shapes["dec_depths"]]
    for found in (decoders, exact):
        if found:
            return found[0]
    raise WeightsError(
        f"{path}: widths {shapes['enc_channels']} belong to no published preset; "
        "load it with preset=... and the constructor arguments it was made with"
    )


def _save_pth(content: dict[str, Any], path: Path) -> None:
    import io

    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes_atomically(path, buffer.getvalue())
