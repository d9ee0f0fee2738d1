"""`timm:MODEL[/STRIDE][:FILE]`: DINOv2 (with registers), DINOv3, PE, TIPSv2, C-RADIO, other ViTs, and convolutions.

ViTs: tokens are the last block's, after the final norm (a no-op for PE-Spatial, as published), without class and
register tokens. Position embeddings are resampled to the grid by timm itself; DINOv3 and PE-Spatial rotate theirs.
C-RADIO crops and resamples its own in a way that timm keeps in its naflexvit models.

Convolutional networks: the last feature map before pooling, at any picture size. STRIDE (pixels per position) is the
network's own, mostly 32; timm makes a smaller one (8, 16) by dilating the last stages of EfficientNets and ResNets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from chorus_common.runtime.devices import pick_device, split_precision
from chorus_common.runtime.errors import ConfigError, WeightsError, did_you_mean, one_line
from chorus_common.runtime.packaged_weights import packaged_file
from chorus_common.runtime.weight_files import quiet_downloads, read_state_dict, weights_fingerprint
from stage1_render_teachers.teachers.token_teacher import PatchNetwork, TokenTeacher

ROLE = "ImageNet backbone"


def build_timm_teacher(argument: str, device: str = "cpu") -> TokenTeacher:
    """The teacher of `MODEL[/STRIDE][:FILE][@PRECISION]`; without a file the weights come from timm's hub.

    Raises ConfigError for a model that timm does not know or that has no dense read-out, WeightsError for weights that
    are missing or do not fit.
    """
    import timm

    plain, precision = split_precision(argument)
    model, _, file = plain.partition(":")
    name, _, stride = model.partition("/")
    if stride and not stride.isdigit():
        raise ConfigError(f"timm:{argument}: '{stride}' is no stride; expected timm:MODEL/8, /16 or /32")
    module, patch, tokens = _dense(name, file, int(stride or 0))
    settings = timm.data.resolve_model_data_config(module)
    network = PatchNetwork(
        module=module,
        tokens=tokens,
        patch=patch,
        channels=int(module.num_features),
        mean=settings["mean"],
        std=settings["std"],
        unit=False,
    )
    return TokenTeacher(
        spec=f"timm:{argument}",
        weights=weights_fingerprint(module),
        network=network,
        device=pick_device(device),
        precision=precision,
        text_aligned=False,
    )


def _dense(name: str, file: str, stride: int) -> tuple[Any, int, Callable[[Tensor], Tensor]]:
    """The network without its head, pixels per token, and its dense read-out [B, 3, H, W] -> [B, rows, cols, C]."""
    if name.startswith("vit_") and "radio" in name:
        raise ConfigError(
            f"timm:{name}: only timm's naflex models resample RADIO's positions as published; write timm:naflex{name}"
        )
    if name.startswith("naflexvit_"):
        naflex = _create(name, file, num_classes=0)
        return naflex, int(naflex.embeds.patch_size[0]), lambda x: _naflex_tokens(naflex, x)
    if not stride:
        try:
            vit = _create(name, file, num_classes=0, dynamic_img_size=True)
            return vit, int(vit.patch_embed.patch_size[0]), lambda x: _last_tokens(vit, x)
        except TypeError:
            pass  # what is no ViT does not know dynamic_img_size
    network = _create_convolutional(name, file, stride, num_classes=0)
    return network, _stride_of(network), lambda x: network.forward_features(x).permute(0, 2, 3, 1)


def _last_tokens(vit: Any, x: Tensor) -> Tensor:
    last: Tensor = vit.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[0]  # [B, C, rows, cols]
    return last.permute(0, 2, 3, 1)


def _naflex_tokens(naflex: Any, x: Tensor) -> Tensor:
    """Tokens without the prefix; naflex models give them in a row."""
    rows, cols = (side // p for side, p in zip(x.shape[-2:], naflex.embeds.patch_size))
    tokens: Tensor = naflex.forward_features(x)[:, naflex.num_prefix_tokens :]  # [B, rows * cols, C]
    return tokens.unflatten(1, (rows, cols))


def create_classifier(name: str, file: str, stride: int) -> tuple[Any, dict[str, Any]]:
    """A convolutional classifier with its head, `stride` pixels per position, and timm's settings for its pictures."""
    import timm

    network = _create_convolutional(name, file, stride)
    return network, timm.data.resolve_model_data_config(network)


def _create_convolutional(name: str, file: str, stride: int, **options: Any) -> Any:
    """Raises ConfigError for a network without a feature map, or that cannot have this stride (0: its own)."""
    what = f"timm:{name}{f'/{stride}' if stride else ''}"
    try:
        network = _create(name, file, **options, **({"output_stride": stride} if stride else {}))
        side = 4 * _stride_of(network)
        with torch.inference_mode():
            maps = network.forward_features(torch.zeros(1, 3, side, side))
    except (TypeError, AttributeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"{what}: neither a ViT that takes pictures of any size nor a network with a feature map of this stride "
            f"({one_line(error)[:120]})"
        ) from None
    if tuple(maps.shape) != (1, network.num_features, 4, 4) or stride not in (0, _stride_of(network)):
        raise ConfigError(f"{what}: its last feature map is {tuple(maps.shape)} for a picture of {side} pixels")
    return network


def _stride_of(network: Any) -> int:
    return int(network.feature_info[-1]["reduction"])


def _create(name: str, file: str, **options: Any) -> Any:
    """A frozen model of timm with weights of `file` (a path or a name of make real-teachers) or of its hub."""
    import timm

    if not timm.is_model(name):
        known = timm.list_models(pretrained=True)
        raise ConfigError(f"timm:{name}: timm knows no model '{name}'" + did_you_mean(name, known))
    hub = f"https://huggingface.co/timm/{name}"
    path = packaged_file(file, ROLE, f"download model.safetensors from {hub} and give its path") if file else None
    if path is not None:
        read_state_dict(path)  # says what is wrong with a file better than timm does
        options["pretrained_cfg_overlay"] = {"file": str(path)}
    try:
        with quiet_downloads():
            return timm.create_model(name, pretrained=True, **options).eval().requires_grad_(False)
    except (TypeError, AssertionError, NotImplementedError):
        raise  # the architecture does not know an option: the caller's to judge
    except Exception as error:  # hub, proxy, disk, shapes: a dozen kinds of error from three libraries
        if path is not None:
            raise WeightsError(f"{path}: does not fit {name}: {one_line(error)[:200]}") from None
        raise WeightsError(
            f"timm:{name}: cannot get its weights ({one_line(error)[:120]}); download model.safetensors from {hub} "
            f"and write timm:{name}:FILE"
        ) from None
