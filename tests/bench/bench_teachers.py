"""Teachers: the mask filter against the published loop over pairs, and SAM's masks against a prompt at a time."""

from __future__ import annotations

import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.onnx import SamOnnxModel
from torch import Tensor, nn

from chorus_common.runtime.allocator import keep_freed_memory
from chorus_common.runtime.devices import torch_threads
from stage1_render_teachers.teachers.batching import HalvingBatches
from stage1_render_teachers.teachers.mask_filter import MaskFilter, keep_masks
from stage1_render_teachers.teachers.sam_masks import SamMaskSettings, SamMaskTeacher, regular_points
from stage1_render_teachers.teachers.sam_model import SamModel
from stage1_render_teachers.teachers.sam_onnx import open_session
from tests.bench.measure import interleaved
from tests.bench.row import Row

COMMAND = "python -m tests.bench teachers"


def rows() -> list[Row]:
    return [mask_filter(), sam_masks()]


def blobs(n: int, height: int, width: int) -> Tensor:
    """Ellipses [n, height, width] bool of all sizes, many of them overlapping."""
    generator = torch.Generator().manual_seed(0)
    x, y, a, b = (torch.rand(n, 1, 1, generator=generator) for _ in range(4))
    down, across = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    return ((down - y) / (0.02 + 0.4 * b)) ** 2 + ((across - x) / (0.02 + 0.4 * a)) ** 2 < 1


def pair_loop(masks: Tensor, scores: Tensor, rule: MaskFilter) -> Tensor:
    """The published way: two tensor reductions for every pair of masks (LangSplat preprocess.py), without its slips."""
    order = scores.argsort(descending=True, stable=True)
    masks = masks[order]
    area = masks.sum(dim=(1, 2), dtype=torch.float)
    keep = scores[order] > rule.score
    for i in range(len(masks)):
        for j in range(i + 1, len(masks)):
            shared = (masks[i] & masks[j]).sum(dtype=torch.float)
            union = (masks[i] | masks[j]).sum(dtype=torch.float)
            of_i, of_j = shared / area[i], shared / area[j]
            if shared / union > rule.iou:
                keep[j] = False
            if of_i < 0.5 and of_j >= 0.85 and 1 - of_i * of_j > 1 - rule.inner:
                keep[j] = False
            if of_i >= 0.85 and of_j < 0.5 and 1 - of_i * of_j > 1 - rule.inner:
                keep[i] = False
    return order[keep]


def mask_filter(n: int = 150) -> Row:
    """Processor seconds to filter `n` masks of 192 x 256, SAM's own resolution for 4:3 pictures."""
    masks = blobs(n, 192, 256)
    scores = 0.6 + 0.4 * torch.rand(n, generator=torch.Generator().manual_seed(1))
    rule = MaskFilter()
    if not torch.equal(keep_masks(masks, scores, rule), pair_loop(masks, scores, rule)):
        raise AssertionError("the two filters keep different masks")
    times = interleaved(
        partial(keep_masks, masks, scores, rule), partial(pair_loop, masks, scores, rule), rounds=3, repeats=5
    )
    return times.row(
        "teachers/mask-filter", f"s for {n} masks; ratio: times faster", COMMAND,
        "loop over pairs, as published, at the same resolution", times_faster=True,
    )  # fmt: skip


class GivenEmbedding(nn.Module):
    """In the place of an image encoder of 1024 pixels: the same embedding whatever the picture."""

    img_size = 1024

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding.expand(len(x), -1, -1, -1)


def seeded_sam() -> Sam:
    """SAM with the decoder of all its published sizes. Every prompt predicts good masks, so that all are drawn."""
    torch.manual_seed(0)
    decoder = MaskDecoder(
        transformer_dim=256, transformer=TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048)
    )
    decoder.iou_prediction_head.layers[-1].bias.data += 0.9
    prompts = PromptEncoder(256, (64, 64), (1024, 1024), mask_in_chans=16)
    return Sam(GivenEmbedding(), prompts, decoder).eval().requires_grad_(False)


def exported(sam: Sam, folder: Path) -> Path:
    """The decoder as segment-anything exports it: a prompt's best mask at the picture's size."""
    path = folder / "decoder.onnx"
    feeds = feeds_of_prompt(torch.randn(1, 256, 64, 64).numpy(), np.array([500.0, 400.0]), (480, 640))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            SamOnnxModel(sam, return_single_mask=True), tuple(torch.from_numpy(x) for x in feeds.values()), str(path),
            dynamo=False, input_names=list(feeds), output_names=["masks", "iou_predictions", "low_res_masks"],
        )  # fmt: skip
    return path


def feeds_of_prompt(embedding: Any, point: Any, size: tuple[int, int]) -> dict[str, Any]:
    """What the exported decoder is fed with for one foreground point (x, y in the encoder's pixels)."""
    return {
        "image_embeddings": embedding,
        "point_coords": np.array([[point, [0, 0]]], dtype=np.float32),
        "point_labels": np.array([[1, -1]], dtype=np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), dtype=np.float32),
        "has_mask_input": np.zeros(1, dtype=np.float32),
        "orig_im_size": np.array(size, dtype=np.float32),
    }


def sam_masks(per_side: int = 8) -> Row:
    """CPU seconds for the masks of a 640x480 view from per_side x per_side prompts, on one thread.

    Ours gives three levels, filtered and painted; the alternative runs the exported decoder once per prompt and does
    nothing with its masks. The encoder is the same for both and left out. Weights are random, of SAM's own shapes.
    Freed memory stays with the process, as in a worker of stage 1.
    """
    keep_freed_memory()
    sam = seeded_sam()
    model = SamModel(sam, "random", torch.device("cpu"), "fp32", HalvingBatches(1, "bench"))
    teacher = SamMaskTeacher("bench", model, SamMaskSettings(points_per_side=per_side))
    image = np.zeros((480, 640, 3), dtype=np.uint8)
    points = regular_points(per_side, 640, 480)
    with tempfile.TemporaryDirectory() as folder, torch_threads(1):
        session = open_session(exported(sam, Path(folder)), 1)
        embedding = model.embed(image[None]).numpy()

        def one_by_one() -> None:
            for point in points * 1.6:
                session.run(None, feeds_of_prompt(embedding, point, (480, 640)))

        times = interleaved(partial(teacher.masks_from_points, image, points), one_by_one, rounds=3)
    return times.row(
        "teachers/sam-onnx-batched", f"CPU s for {len(points)} prompts of a 640x480 view", COMMAND,
        "exported decoder in onnxruntime, a prompt at a time",
    )  # fmt: skip
