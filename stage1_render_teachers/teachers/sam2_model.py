"""`sam2:`, `sam2-masks:` and `sam2-density-masks:MODEL[@PRECISION]`: SAM 2 and 2.1 (Ravi et al. 2024, arXiv 2408.00714)
on single pictures, through the package transformers (Sam2Model, an optional extra).

MODEL is a folder with config.json and model.safetensors, or a repository of the hub such as
facebook/sam2.1-hiera-tiny. What belongs to videos (memory) is in these files, too, and is not loaded.

Three things differ from SAM. Pictures are stretched to the square, as SAM 2 was trained, and not padded. The decoder
also looks at two finer feature maps. Nothing says that its three masks come in the order of size, so they are put in
it: "whole" is the largest of a prompt's masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chorus_common.runtime.devices import Precision, autocast, pick_device, split_precision
from chorus_common.runtime.errors import ConfigError, WeightsError, one_line
from chorus_common.runtime.weight_files import quiet_downloads, weights_fingerprint
from chorus_common.text.transformers_text import quiet_transformers
from stage1_render_teachers.teachers.batching import HalvingBatches
from stage1_render_teachers.teachers.protocol import U8
from stage1_render_teachers.teachers.sam_dense import SamDenseTeacher
from stage1_render_teachers.teachers.sam_masks import SamMaskSettings, SamMaskTeacher

#: Pictures per pass of the encoder to start with.
ENCODER_BATCH = 4

#: Model types of config.json; those of the hub's repositories are written for videos.
_TYPES = ("sam2", "sam2_video")


@dataclass(frozen=True)
class Sam2Picture:
    """A picture as the decoder sees it: embedding [1, C, t, t], and finer maps [1, C/8, 4t, 4t], [1, C/4, 2t, 2t]."""

    embedding: Tensor
    fine: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Sam2:
    """A loaded SAM 2 on its device and the fingerprint of its weights. See `promptable.PromptableModel`."""

    network: Any
    weights: str
    device: torch.device
    precision: Precision
    batches: HalvingBatches

    @property
    def side(self) -> int:
        return int(self.network.config.prompt_encoder_config.image_size)

    @property
    def channels(self) -> int:
        return int(self.network.config.vision_config.fpn_hidden_size)

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """The whole square: pictures are stretched to it."""
        return self.side, self.side

    def tokens(self, images: U8) -> Tensor:
        """See `TokenModel`."""
        return torch.cat([picture.embedding for picture in self.pictures(images)])

    def pictures(self, images: U8) -> list[Sam2Picture]:
        """See `PromptableModel`."""
        return [picture for part in self.batches.run(self._embed, images) for picture in part]

    def share(self, picture: Sam2Picture) -> Sam2Picture:
        """See `PromptableModel`."""
        return picture

    @torch.inference_mode()
    def answer(
        self, shared: Sam2Picture, coords: Tensor, inside: tuple[int, int], threshold: float
    ) -> tuple[Tensor, Tensor]:
        """See `PromptableModel`."""
        points = coords[None, :, None]  # [1, P, 1, 2]
        labels = torch.ones(points.shape[:-1], dtype=torch.int, device=points.device)
        with autocast(self.device, self.precision):
            sparse, dense = self.network.prompt_encoder(points, labels, None, None)
            logits, quality, *_ = self.network.mask_decoder(
                image_embeddings=shared.embedding,
                image_positional_embeddings=self._positions,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
                high_resolution_features=list(shared.fine),
            )
        promising = (quality[0] > threshold).any(dim=1)
        logits, quality = logits[0, promising].float(), quality[0, promising].float()  # [K, 3, s, s], [K, 3]
        order = (logits > 0).flatten(2).sum(2).argsort(dim=1, stable=True)
        return logits.take_along_dim(order[:, :, None, None], 1), quality.take_along_dim(order, 1)

    def scale_up(self, logits: Tensor, inside: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """See `PromptableModel`; as transformers' `post_process_masks`."""
        return F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0] > 0

    @cached_property
    def _positions(self) -> Tensor:
        positions: Tensor = self.network.get_image_wide_positional_embeddings()
        return positions

    @cached_property
    def _processor(self) -> Any:
        from transformers import Sam2ImageProcessor

        return Sam2ImageProcessor(size={"height": self.side, "width": self.side})

    @torch.inference_mode()
    def _embed(self, images: U8) -> list[Sam2Picture]:
        pixels = self._processor(images=list(images), return_tensors="pt")["pixel_values"].to(self.device)
        with autocast(self.device, self.precision):
            finest, finer, embedding = (x.float() for x in self.network.get_image_embeddings(pixels))
        return [Sam2Picture(embedding[i : i + 1], (finest[i : i + 1], finer[i : i + 1])) for i in range(len(images))]


def load_sam2(argument: str, family: str, device: str) -> Sam2:
    """The model of "MODEL[@PRECISION]", loaded once per process and device.

    Raises ConfigError without the package or for a folder that is not there, WeightsError for weights that are missing
    or are no SAM 2.
    """
    source, precision = split_precision(argument)
    spec = f"{family}:{argument}"
    if not Path(source).expanduser().is_dir() and (source.count("/") != 1 or not all(source.split("/"))):
        raise ConfigError(
            f"{spec}: no such folder; expected {family}:FOLDER or {family}:OWNER/REPO, "
            f"such as {family}:facebook/sam2.1-hiera-tiny"
        )
    network, weights = _load(spec, str(Path(source).expanduser()) if Path(source).expanduser().is_dir() else source)
    place = pick_device(device)
    return Sam2(network.to(place), weights, place, precision, HalvingBatches(ENCODER_BATCH, spec))


@lru_cache(maxsize=2)
def _load(spec: str, source: str) -> tuple[Any, str]:
    try:
        from transformers import AutoConfig, Sam2Config, Sam2Model
    except ImportError:
        raise ConfigError(f"{spec}: needs the package transformers: pip install 'chorus3d[sam2]'") from None
    try:
        with quiet_downloads(), quiet_transformers():
            kind = AutoConfig.from_pretrained(source).model_type
            if kind not in _TYPES:
                raise WeightsError(f"{spec}: is a model of type '{kind}', not SAM 2 ({' or '.join(_TYPES)})")
            network, report = Sam2Model.from_pretrained(
                source, config=Sam2Config.from_pretrained(source), use_safetensors=True, output_loading_info=True
            )
    except WeightsError:
        raise
    except Exception as error:  # hub, proxy, disk, format: many kinds of error, one remedy
        raise WeightsError(
            f"{spec}: cannot load it ({one_line(error)[:120]}); it needs config.json and model.safetensors: download "
            "them from the model's page on huggingface.co and give their folder"
        ) from None
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wrong:
        raise WeightsError(f"{spec}: its weights lack or misfit {wrong[0]} ({len(wrong)} such)")
    network = network.float().eval().requires_grad_(False)
    return network, weights_fingerprint(network)


def build_sam2_dense(argument: str, device: str = "cpu") -> SamDenseTeacher:
    """The image embedding of "MODEL[@PRECISION]" as a dense teacher."""
    return SamDenseTeacher(f"sam2:{argument}", load_sam2(argument, "sam2", device))


def build_sam2_masks(argument: str, device: str = "cpu") -> SamMaskTeacher:
    """The masks of "MODEL[@PRECISION]", prompted on a regular grid."""
    return SamMaskTeacher(f"sam2-masks:{argument}", load_sam2(argument, "sam2-masks", device))


def build_sam2_density_masks(argument: str, device: str = "cpu") -> SamMaskTeacher:
    """The same, prompted with GAGS's density."""
    family = "sam2-density-masks"
    return SamMaskTeacher(
        f"{family}:{argument}", load_sam2(argument, family, device), SamMaskSettings(prompts="density")
    )
