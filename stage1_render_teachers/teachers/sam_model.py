"""SAM's image encoder (the stock segment-anything package), shared by the dense and the mask teacher.

Pictures go in as SAM was trained on them: the long side scaled to 1024, zeros below or to the right, never stretched.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chorus_common.runtime.devices import Precision, autocast, pick_device, split_precision
from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.weight_files import existing_file, load_strictly, read_state_dict, weights_fingerprint
from stage1_render_teachers.teachers.batching import HalvingBatches
from stage1_render_teachers.teachers.promptable import valid_region
from stage1_render_teachers.teachers.protocol import U8
from stage1_render_teachers.teachers.sam_decoder import PointDecoder, SharedPicture

#: Published checkpoints, under https://dl.fbaipublicfiles.com/segment_anything/.
CHECKPOINTS = {
    "vit_b": "sam_vit_b_01ec64.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_h": "sam_vit_h_4b8939.pth",
}

#: Pictures per pass of the encoder to start with.
ENCODER_BATCH = 4


@dataclass(frozen=True)
class SamModel:
    """A loaded SAM on its device and the fingerprint of its weights. See `promptable.PromptableModel`."""

    network: Any
    weights: str
    device: torch.device
    precision: Precision
    batches: HalvingBatches

    @property
    def side(self) -> int:
        """Pixels per side of the square that the encoder sees (1024)."""
        return int(self.network.image_encoder.img_size)

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the picture inside that square."""
        from segment_anything.utils.transforms import ResizeLongestSide

        return ResizeLongestSide.get_preprocess_shape(height, width, self.side)

    @property
    def channels(self) -> int:
        return int(self.network.prompt_encoder.embed_dim)

    def tokens(self, images: U8) -> Tensor:
        """See `TokenModel`."""
        return self.embed(images)

    def pictures(self, images: U8) -> list[Tensor]:
        """See `PromptableModel`: embeddings [C, t, t]."""
        return list(self.embed(images))

    def share(self, picture: Tensor) -> SharedPicture:
        """See `PromptableModel`."""
        return self._decoder.share(picture)

    @torch.inference_mode()
    def answer(
        self, shared: SharedPicture, coords: Tensor, inside: tuple[int, int], threshold: float
    ) -> tuple[Tensor, Tensor]:
        """See `PromptableModel`. Masks are drawn where the picture is, and 0 elsewhere.

        On a CPU the picture's tokens (1.9 MB) are worked on prompt by prompt: they then stay in the processor's cache.
        """
        rows, cols = valid_region(inside, self.side, 4 * shared.side)
        together = 1 if coords.device.type == "cpu" else None
        answers = self._decoder.decode(shared, coords, together)  # f32: sums of squares there would not survive less
        quality = answers.quality  # [P, 3]
        promising = (quality > threshold).any(dim=1)  # [P], K of them
        # One more row and column than counts here: scaling up the mask reads them.
        drawn = (min(-(-(length + 1) // 4), shared.side) for length in (rows, cols))
        with autocast(self.device, self.precision):
            logits = self._decoder.draw(shared, answers, promising, *drawn).float()  # [K, 3, s, s]
        return logits, quality[promising]

    def scale_up(self, logits: Tensor, inside: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """See `PromptableModel`."""
        full: Tensor = self.network.postprocess_masks(logits[:, None], inside, size)[:, 0]  # [K, H, W]
        return full > self.network.mask_threshold

    @cached_property
    def _decoder(self) -> PointDecoder:
        return PointDecoder(self.network.prompt_encoder, self.network.mask_decoder)

    def embed(self, images: U8) -> Tensor:
        """Embeddings [B, C, side / 16, side / 16] f32 of pictures [B, H, W, 3] u8, on the model's device."""
        return torch.cat(self.batches.run(self._embed, images))

    @torch.inference_mode()
    def _embed(self, images: U8) -> Tensor:
        from segment_anything.utils.transforms import ResizeLongestSide

        resize = ResizeLongestSide(self.side)
        resized = np.stack([resize.apply_image(np.ascontiguousarray(image)) for image in images])  # [B, h, w, 3]
        x = torch.from_numpy(resized).to(self.device).permute(0, 3, 1, 2).float()
        with autocast(self.device, self.precision):
            return self.network.image_encoder(self.network.preprocess(x)).float()


def load_sam(argument: str, family: str, device: str) -> SamModel:
    """The model of "ARCHITECTURE:CHECKPOINT[@PRECISION]", loaded once per process and device.

    Raises ConfigError for an unknown architecture, WeightsError where the checkpoint is missing or does not fit.
    """
    from segment_anything import sam_model_registry

    plain, precision = split_precision(argument)
    architecture, _, file = plain.partition(":")
    if architecture not in sam_model_registry:
        known = ", ".join(name for name in sam_model_registry if name != "default")
        raise ConfigError(f"{family}:{argument}: unknown SAM '{architecture}'; known: {known}")
    source = f"https://dl.fbaipublicfiles.com/segment_anything/{CHECKPOINTS.get(architecture, '')}"
    if not file:
        raise ConfigError(f"{family}:{argument}: name a checkpoint, {family}:{architecture}:FILE; download {source}")
    path = existing_file(file, f"download {source} and give its path")
    place = pick_device(device)
    network, weights = _load(architecture, str(path), path.stat().st_mtime_ns, device)
    batches = HalvingBatches(ENCODER_BATCH, f"{family}:{argument}")
    return SamModel(network, weights, place, precision, batches)


@lru_cache(maxsize=2)
def _load(architecture: str, file: str, changed: int, device: str) -> tuple[nn.Module, str]:
    """The network and its fingerprint: `sam:` and `sam-masks:` of one checkpoint share the memory."""
    from segment_anything import sam_model_registry

    path = existing_file(file, "it was there a moment ago")
    network = sam_model_registry[architecture]()
    load_strictly(network, read_state_dict(path), path, f"SAM {architecture}")
    network = network.eval().requires_grad_(False)
    return network.to(device), weights_fingerprint(network)
