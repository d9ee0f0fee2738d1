"""`sam-masks:` and `sam-density-masks:ARCHITECTURE:CHECKPOINT`: SAM's masks at three granularities from point prompts.

The prompts stand on a regular grid, or as GAGS puts them, dense where a surface is seen from afar (prompt_density.py).

Every prompt gives three masks; SAM's decoder orders them from subpart to whole and each output makes a level of its
own, as in LangSplat (Qin et al., CVPR 2024) and GAGS. Unlike there, the stock package serves, and everything up to the
final ids happens on the decoder's own low-resolution logits: score, stability, and `mask_filter` in one matrix
product. Only masks that stay are scaled to the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from chorus_common.runtime.config import Config
from chorus_common.runtime.devices import torch_threads
from chorus_common.runtime.threads import run_tasks
from stage1_render_teachers.teachers.batching import HalvingBatches
from stage1_render_teachers.teachers.mask_filter import MaskFilter, keep_masks
from stage1_render_teachers.teachers.prompt_density import draw_prompts
from stage1_render_teachers.teachers.promptable import PromptableModel, valid_region
from stage1_render_teachers.teachers.protocol import I32, U8, AskSurface, fingerprint_of
from stage1_render_teachers.teachers.sam_model import load_sam

#: Level -> output of SAM's decoder.
OUTPUTS = {"whole": 2, "part": 1, "subpart": 0}

VERSION = 2

#: Prompts per pass of the decoder, and masks scaled up at once, to start with.
PROMPT_BATCH, UPSCALE_BATCH = 64, 32

#: Prompts that a thread of the CPU works on at once.
THREAD_BATCH = 8


class SamMaskSettings(Config):
    """What changes a mask. Thresholds are those of GAGS (preprocess.py), points those of SAM."""

    prompts: Literal["grid", "density"] = Field(
        default="grid", description="a regular grid, or as many per unit of surface from afar (prompt_density.py)"
    )
    points_per_side: int = Field(default=32, ge=1, le=256, description="prompts of a regular grid, per side")
    predicted_iou: float = Field(default=0.7, description="SAM's own guess of a mask's quality must exceed it")
    stability: float = Field(default=0.85, ge=0, le=1, description="IoU of the mask cut one logit higher and lower")
    smallest_pixels: int = Field(default=100, ge=1, description="masks with fewer visible pixels are not reported")
    post_filter: MaskFilter = Field(default_factory=MaskFilter)


class SamMaskTeacher:
    """See the module's docstring and `protocol.MaskTeacher`."""

    levels = tuple(OUTPUTS)

    def __init__(self, spec: str, model: PromptableModel, settings: SamMaskSettings | None = None) -> None:
        self.spec = spec
        self.settings = settings or SamMaskSettings()
        self._model = model
        self._prompts = HalvingBatches(PROMPT_BATCH, spec)
        self._upscale = HalvingBatches(UPSCALE_BATCH, spec)
        self.fingerprint = fingerprint_of("sam masks", VERSION, model.weights, model.precision, self.settings)

    def masks_of_views(self, images: U8, seeds: Sequence[int], surfaces: Sequence[AskSurface]) -> list[dict[str, I32]]:
        """Masks of pictures [B, H, W, 3] u8, which share the passes of the encoder."""
        place, size = _PLACEMENTS[self.settings.prompts], images.shape[1:3]
        return [
            self._masks(picture, size, place(self.settings, size, seed, surface))
            for picture, seed, surface in zip(self._model.pictures(images), seeds, surfaces, strict=True)
        ]

    def masks_from_points(self, image: U8, points: NDArray[np.floating]) -> dict[str, I32]:
        """Masks of one picture [H, W, 3] u8 with prompts [P, 2] (x, y in pixels of the picture) of the caller."""
        return self._masks(self._model.pictures(image[None])[0], image.shape[:2], points)

    @torch.inference_mode()
    def _masks(self, picture: Any, size: Sequence[int], points: NDArray[np.floating]) -> dict[str, I32]:
        height, width = size
        inside = self._model.input_size(height, width)
        scale = np.array([inside[1] / width, inside[0] / height])
        coords = torch.from_numpy(points * scale).float().to(self._model.device)  # [P, 2] in the square's pixels
        none: dict[str, I32] = {level: np.full((height, width), -1, dtype=np.int32) for level in OUTPUTS}
        if not len(coords):
            return none
        shared = self._model.share(picture)
        proposals = self._prompts.run(lambda part: self._propose(shared, part, inside), coords)
        for level, output in OUTPUTS.items():
            logits, scores = (torch.cat(parts) for parts in zip(*(proposal[output] for proposal in proposals)))
            if len(logits):
                rows, cols = valid_region(inside, self._model.side, logits.shape[-1])
                kept = keep_masks(logits[:, :rows, :cols] > 0, scores, self.settings.post_filter)
                none[level] = self._paint(logits[kept], inside, (height, width))
        return none

    def _propose(self, shared: Any, coords: Tensor, inside: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        """Per output of the decoder: logits [M, s, s] and scores [M] of the masks worth filtering.

        On a CPU every thread takes a few prompts at a time.
        """
        if coords.device.type != "cpu":
            return self._propose_together(shared, coords, inside)
        threads = torch.get_num_threads()
        with torch_threads(1):
            parts = coords.split(THREAD_BATCH)
            found = run_tasks([partial(self._propose_together, shared, part, inside) for part in parts], threads)
        return [(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])) for parts in zip(*found)]

    @torch.inference_mode()
    def _propose_together(self, shared: Any, coords: Tensor, inside: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        settings = self.settings
        logits, quality = self._model.answer(shared, coords, inside, settings.predicted_iou)
        rows, cols = valid_region(inside, self._model.side, logits.shape[-1])
        stability = stability_score(logits[..., :rows, :cols])
        filled = logits[..., :rows, :cols].amax(dim=(-2, -1)) > 0
        good = (quality > settings.predicted_iou) & (stability > settings.stability) & filled  # [K, 3]
        score = quality * stability
        return [(logits[good[:, k], k], score[good[:, k], k]) for k in range(logits.shape[1])]

    def _paint(self, logits: Tensor, inside: tuple[int, int], size: tuple[int, int]) -> I32:
        """Ids [H, W] of masks given as logits [K, s, s]: large ones first, so that small ones stay visible."""
        if not len(logits):
            return np.full(size, -1, dtype=np.int32)

        def scale_up(part: Tensor) -> NDArray[np.bool_]:
            return self._model.scale_up(part, inside, size).cpu().numpy()

        masks = np.concatenate(self._upscale.run(scale_up, logits))
        return paint(masks, self.settings.smallest_pixels)


def regular_points(per_side: int, width: int, height: int) -> NDArray[np.float64]:
    """Centres [per_side^2, 2] (x, y in pixels) of per_side x per_side equal parts of a picture, row by row."""
    along = (np.arange(per_side) + 0.5) / per_side
    x, y = np.meshgrid(along * width, along * height)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def _grid(settings: SamMaskSettings, size: Sequence[int], seed: int, surface: AskSurface) -> NDArray[np.float64]:
    return regular_points(settings.points_per_side, size[1], size[0])


def _density(settings: SamMaskSettings, size: Sequence[int], seed: int, surface: AskSurface) -> NDArray[np.float64]:
    return draw_prompts(surface(), seed)


#: Where the prompts [P, 2] of one view are put; `size` is (height, width) of its picture.
_PLACEMENTS = {"grid": _grid, "density": _density}


def stability_score(logits: Tensor, offset: float = 1.0) -> Tensor:
    """IoU of the masks of logits [..., h, w] cut at +offset and at -offset; 0 where both are empty."""
    inner = (logits > offset).flatten(-2).sum(-1)
    outer = (logits > -offset).flatten(-2).sum(-1)
    return inner / outer.clamp(min=1)


def paint(masks: NDArray[np.bool_], smallest: int) -> I32:
    """Masks [K, H, W] -> ids [H, W]: large ones first, small ones over them, ids from 0 in reading order, -1 = none.

    A mask of which fewer than `smallest` pixels can be seen in the end is taken out (its pixels become -1).
    """
    ids = np.full(masks.shape[1:], -1, dtype=np.int32)
    for k in np.argsort(-masks.sum(axis=(1, 2)), kind="stable"):
        ids[masks[k]] = k
    visible, first, inverse, counts = np.unique(ids, return_index=True, return_inverse=True, return_counts=True)
    good = (visible >= 0) & (counts >= smallest)
    number = np.full(len(visible), -1, dtype=np.int32)
    number[np.flatnonzero(good)[np.argsort(first[good])]] = np.arange(good.sum())
    return number[inverse].reshape(ids.shape)


def build_sam_masks(argument: str, device: str = "cpu") -> SamMaskTeacher:
    """The teacher of "ARCHITECTURE:CHECKPOINT[@PRECISION]", prompted on a regular grid."""
    return SamMaskTeacher(f"sam-masks:{argument}", load_sam(argument, "sam-masks", device))


def build_sam_density_masks(argument: str, device: str = "cpu") -> SamMaskTeacher:
    """The same, prompted with GAGS's density."""
    family = "sam-density-masks"
    return SamMaskTeacher(
        f"{family}:{argument}", load_sam(argument, family, device), SamMaskSettings(prompts="density")
    )
