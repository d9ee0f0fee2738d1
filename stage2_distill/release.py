"""The released Chorus (github GaussianWorld/Chorus, weights SceneSplatPro/Chorus): its checkpoints as students, and
students in the layout of its checkpoints.

    <stem>.pth = {"state_dict": {"module._teacher_pointer": int64 [1], "module.backbone.*": the encoder,
                                 "module.projectors.<teacher>.{input_norm,mlp_head.0,mlp_head.2}.{weight,bias}"}}

What the file does not hold: heads have 16 channels at every level, all levels are carried up, `lang` and `dino` are
L2-normalised and `pe_spatial` is not, and no teacher was standardised.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chorus_common.cache.names import UNRECORDED
from chorus_common.runtime.atomic import write_bytes_atomically
from chorus_common.runtime.errors import WeightsError
from stage2_distill.encoder.checkpoints import FORMATS, RELEASE_HEAD
from stage2_distill.encoder.presets import PRESETS
from stage2_distill.encoder.state_dicts import Parts
from stage2_distill.hub import PUBLISHED

#: The authors' teachers in the file's order: (spec, channels, space of the predictions, whether there is a text side).
#: `lang` lives in the space of SigLIP2-so400m-patch14-384, which open_clip calls ViT-SO400M-14-SigLIP2-378 (27 patches
#: of 14 pixels).
RELEASE_TEACHERS: dict[str, tuple[str, int, str, bool]] = {
    "lang": ("open_clip:ViT-SO400M-14-SigLIP2-378:webli", 1152, "unit", True),
    "dino": ("timm:vit_large_patch16_dinov3.lvd1689m", 1024, "unit", False),
    "pe_spatial": ("timm:vit_pe_spatial_large_patch14_448.fb", 1024, "plain", False),
}
#: The two that every released file has.
REQUIRED_TEACHERS = ("lang", "dino")
#: Width of a projector's hidden layer in widths of the latent.
HIDDEN_RATIO = 4
LICENCE = PUBLISHED["chorus-3dgs"].licence


def release_teachers(parts: Parts, path: Path) -> dict[str, dict[str, Any]]:
    """Fields of `StudentTeacher` per projector of a file.

    Raises WeightsError where one is missing or none of the release's.
    """
    if missing := [name for name in REQUIRED_TEACHERS if name not in parts.projectors]:
        raise WeightsError(
            f"{path}: has no projector '{missing[0]}' (it has {', '.join(parts.projectors)}); a checkpoint of the "
            f"released Chorus has {' and '.join(REQUIRED_TEACHERS)}: fetch it again, or read its encoder alone"
        )
    if unknown := [name for name in parts.projectors if name not in RELEASE_TEACHERS]:
        raise WeightsError(
            f"{path}: projector '{unknown[0]}' is none that the release trains ({', '.join(RELEASE_TEACHERS)})"
        )
    fields = {}
    for name, tensors in parts.projectors.items():
        spec, published, space, text = RELEASE_TEACHERS[name]
        hidden, channels = (_rows(tensors, key, name, path) for key in ("mlp_head.0.weight", "mlp_head.2.weight"))
        fields[name] = {
            "spec": spec, "fingerprint": UNRECORDED, "channels": channels, "hidden": hidden,
            "text_aligned": text and channels == published, "projector": "norm_input", "space": space,
        }  # fmt: skip
    return fields


def published_teachers(width: int) -> dict[str, dict[str, Any]]:
    """Fields of `StudentTeacher` of the released files' projectors on an encoder of `width` channels."""
    return {
        name: {
            "spec": spec, "fingerprint": UNRECORDED, "channels": channels, "hidden": HIDDEN_RATIO * width,
            "text_aligned": text, "projector": "norm_input", "space": space,
        }
        for name, (spec, channels, space, text) in RELEASE_TEACHERS.items()
        if name in REQUIRED_TEACHERS
    }  # fmt: skip


def release_state(encoder: Mapping[str, Tensor], projectors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The state dict of a released file, keys in its order."""
    order = sorted(projectors, key=list(RELEASE_TEACHERS).index)
    state = {"module._teacher_pointer": torch.zeros(1, dtype=torch.int64)}
    state |= {f"module.backbone.{key}": value for key, value in encoder.items()}
    state |= {f"module.projectors.{name}.{key}": value for name in order for key, value in projectors[name].items()}
    return state


def write_release(state: Mapping[str, Tensor], record: Mapping[str, Any], path: Path) -> None:
    """Write a file in the release's layout; `record` is our config of it, which the authors' package passes over."""
    content = {"state_dict": {k: v.detach().cpu().contiguous() for k, v in state.items()}}
    buffer = io.BytesIO()
    torch.save(content | {"chorus_student": dict(record)}, buffer)
    write_bytes_atomically(path, buffer.getvalue())


def why_not_release(config: Any, layouts: Mapping[str, tuple[str, str]]) -> str:
    """Why a student (its encoder's config; teacher -> projector layout, space) has no place in the release's layout;
    "" where it has one.
    """
    presets = {PRESETS[name].in_channels: PRESETS[name] for name in ("chorus-3dgs", "chorus-pts")}
    preset = presets.get(config.in_channels)
    fixed = FORMATS["sonata"].classes[0] | {"enc_mode": True, "upcast": len(config.enc_channels) - 1}
    wrong = [f"{key} = {getattr(config, key)!r} (there: {value!r})" for key, value in fixed.items()
             if getattr(config, key) != value]  # fmt: skip
    if preset is None:
        wrong.append(f"in_channels = {config.in_channels} (there: 11 or 9)")
    elif config.inputs != preset.inputs:
        wrong.append(f"inputs other than those of {preset.name}")
    if any(heads != max(1, c // RELEASE_HEAD) for c, heads in zip(config.enc_channels, config.enc_num_head)):
        wrong.append(f"heads not of {RELEASE_HEAD} channels")
    for name, (layout, space) in layouts.items():
        if name not in RELEASE_TEACHERS:
            wrong.append(f"teacher '{name}'")
        elif (layout, space) != ("norm_input", RELEASE_TEACHERS[name][2]):
            wrong.append(f"projector '{name}' with {layout}, {space} (there: norm_input, {RELEASE_TEACHERS[name][2]})")
    wrong += [f"no teacher '{name}'" for name in REQUIRED_TEACHERS if name not in layouts]
    return ", ".join(wrong)


def _rows(tensors: Mapping[str, Tensor], key: str, name: str, path: Path) -> int:
    value = tensors.get(key)
    if value is None or value.ndim != 2:
        raise WeightsError(f"{path}: projector '{name}' has no matrix {key}")
    return len(value)
