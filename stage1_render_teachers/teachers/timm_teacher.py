"""`timm:MODEL[:FILE]`: DINOv2, DINOv2 with registers, DINOv3, PE-Spatial and any other plain ViT of timm.

Tokens are the last block's, after the final norm (a no-op for PE-Spatial, as published), without class and register
tokens. Position embeddings are resampled to the grid by timm itself; DINOv3 and PE-Spatial rotate theirs.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from chorus_common.runtime.devices import pick_device, split_precision
from chorus_common.runtime.errors import ConfigError, WeightsError, one_line
from chorus_common.runtime.weight_files import existing_file, quiet_downloads, read_state_dict, weights_fingerprint
from stage1_render_teachers.teachers.token_teacher import PatchNetwork, TokenTeacher


def build_timm_teacher(argument: str, device: str = "cpu") -> TokenTeacher:
    """The teacher of `MODEL[:FILE][@PRECISION]`; without a file the weights come from timm's hub.

    Raises ConfigError for a model that timm does not know or that is no patch network, WeightsError for weights that
    are missing or do not fit.
    """
    import timm

    plain, precision = split_precision(argument)
    name, _, file = plain.partition(":")
    if not timm.is_model(name):
        known = timm.list_models(pretrained=True)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise ConfigError(f"timm:{argument}: timm knows no model '{name}'; did you mean '{near[0]}'?")
    hub = f"https://huggingface.co/timm/{name}"
    path = existing_file(file, f"download model.safetensors from {hub} and give its path") if file else None
    module: Any = _create(timm, name, path, hub).eval().requires_grad_(False)

    def tokens(x: Tensor) -> Tensor:
        last = module.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[0]  # [B, C, rows, cols]
        return last.permute(0, 2, 3, 1)

    settings = timm.data.resolve_model_data_config(module)
    network = PatchNetwork(
        module=module,
        tokens=tokens,
        patch=int(module.patch_embed.patch_size[0]),
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


def _create(timm: Any, name: str, path: Path | None, hub: str) -> nn.Module:
    if path is not None:
        read_state_dict(path)  # says what is wrong with a file better than timm does
    try:
        with quiet_downloads():
            return timm.create_model(
                name,
                pretrained=True,
                num_classes=0,
                dynamic_img_size=True,
                pretrained_cfg_overlay={"file": str(path)} if path is not None else None,
            )
    except TypeError as error:
        raise ConfigError(f"timm:{name}: is not a ViT that takes pictures of any size ({one_line(error)})") from None
    except Exception as error:  # hub, proxy, disk, shapes: a dozen kinds of error from three libraries
        if path is not None:
            raise WeightsError(f"{path}: does not fit {name}: {one_line(error)[:200]}") from None
        raise WeightsError(
            f"timm:{name}: cannot get its weights ({one_line(error)[:120]}); download model.safetensors from {hub} "
            f"and write timm:{name}:FILE"
        ) from None
