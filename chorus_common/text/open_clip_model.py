"""One open_clip model from "MODEL:WEIGHTS", for the picture side (stage 1) and the text side (zero-shot) alike.

Together with text_open_clip.py this is the one place outside stage 1 that imports a teacher package, and it does so
inside functions: a class name must be encoded by the very tower whose picture side made the features.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from chorus_common.runtime.devices import Precision, split_precision
from chorus_common.runtime.errors import ChorusError, ConfigError, WeightsError, did_you_mean, one_line
from chorus_common.runtime.weight_files import existing_file, looks_like_file, quiet_downloads, read_state_dict

FAMILY = "open_clip:"


@dataclass(frozen=True)
class OpenClipModel:
    """A loaded model.

    Attributes:
        spec: "open_clip:MODEL:WEIGHTS[@PRECISION]".
        name: open_clip's name of the architecture.
        network: CLIP or CustomTextCLIP in eval mode, fp32, on the CPU.
        mean, std: of RGB in [0, 1], as the weights were trained with.
        weights: the local file, or None where they came through a tag.
    """

    spec: str
    name: str
    network: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: Precision
    weights: Path | None


def load_open_clip(argument: str) -> OpenClipModel:
    """The model of "MODEL:WEIGHTS[@PRECISION]"; WEIGHTS is a tag of open_clip, a file, or TAG=FILE.

    TAG=FILE reads the file and takes mean, std and activation from the tag; a file alone takes them from the model's
    tags where these agree (SigLIP is trained with .5, CLIP with its own means: with the wrong ones nothing fails and
    every feature is worse).

    Raises ConfigError for unknown names, WeightsError where weights are missing or do not fit.
    """
    import open_clip

    plain, precision = split_precision(argument)
    name, _, weights = plain.partition(":")
    if name not in open_clip.list_models():
        hint = did_you_mean(name, open_clip.list_models())
        raise ConfigError(f"{FAMILY}{argument}: open_clip knows no model '{name}'{hint}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    tag, equals, file = weights.partition("=")
    if not equals and looks_like_file(weights):
        tag, file = "", weights
    if (tag and tag not in tags) or not (tag or file):
        known = ", ".join(tags) or "none"
        raise ConfigError(
            f"{FAMILY}{argument}: expected open_clip:{name}:WEIGHTS with a tag ({known}), a file or TAG=FILE"
        )
    settings = _settings_of(open_clip, name, tag, tags)
    advice = f"download the weights of {name} (https://huggingface.co/models?search={name}) and give their path"
    path = existing_file(file, advice) if file else _download(open_clip, name, tag)
    if path.suffix != ".npz":  # Google's own SigLIP files are arrays, which open_clip reads itself
        read_state_dict(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the activation, which is settled above
            network = open_clip.create_model(
                name, pretrained=str(path), force_quick_gelu=settings["quick_gelu"], weights_only=True
            )
    except (RuntimeError, KeyError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path}: does not fit {name}: {one_line(error)[:200]}") from None
    return OpenClipModel(
        spec=FAMILY + argument,
        name=name,
        network=network.eval().requires_grad_(False),
        mean=settings["mean"],
        std=settings["std"],
        precision=precision,
        weights=path if file else None,
    )


def _settings_of(open_clip: Any, name: str, tag: str, tags: list[str]) -> dict[str, Any]:
    """Mean, std and activation of the weights: from their tag, else from what all tags of the model agree on."""
    vision = open_clip.get_model_config(name)["vision_cfg"]
    is_timm = "timm_model_name" in vision
    found = [_tag_settings(open_clip, name, t) for t in ([tag] if tag else tags)]
    if not found:  # an architecture of the user's own
        mean, std = _timm_normalisation(vision["timm_model_name"]) if is_timm else _clip_normalisation()
        return {"mean": mean, "std": std, "quick_gelu": False}
    if any(other["mean"] != found[0]["mean"] or other["std"] != found[0]["std"] for other in found):
        raise ConfigError(
            f"open_clip:{name}: its weights differ in mean and std, a file alone does not say which; "
            f"write open_clip:{name}:TAG=FILE with TAG one of {', '.join(tags)}"
        )
    # An architecture is listed under "-quickgelu" too: a file alone means the activation that its model name says.
    return {**found[0], "quick_gelu": bool(tag) and found[0]["quick_gelu"]}


def _tag_settings(open_clip: Any, name: str, tag: str) -> dict[str, Any]:
    known = open_clip.get_pretrained_cfg(name, tag)
    mean, std = _clip_normalisation()
    return {
        "mean": tuple(known.get("mean") or mean),
        "std": tuple(known.get("std") or std),
        "quick_gelu": bool(known.get("quick_gelu", False)),
    }


def _clip_normalisation() -> tuple[Any, Any]:
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    return tuple(OPENAI_DATASET_MEAN), tuple(OPENAI_DATASET_STD)


def _timm_normalisation(trunk: str) -> tuple[Any, Any]:
    import timm

    known = timm.get_pretrained_cfg(trunk)
    if known is None:
        raise ConfigError(f"timm knows no settings of the picture tower '{trunk}'")
    return tuple(known.mean), tuple(known.std)


def _download(open_clip: Any, name: str, tag: str) -> Path:
    known = open_clip.get_pretrained_cfg(name, tag)
    source = f"https://huggingface.co/{known['hf_hub'].strip('/')}" if known.get("hf_hub") else known.get("url", "")
    try:
        with quiet_downloads():
            return Path(open_clip.download_pretrained(known))
    except ChorusError:
        raise
    except Exception as error:  # hub, proxy, disk: a dozen kinds of error from three libraries, one remedy
        raise WeightsError(
            f"open_clip:{name}:{tag}: cannot get its weights ({one_line(error)[:120]}); download them from {source} "
            f"and write open_clip:{name}:{tag}=FILE"
        ) from None
