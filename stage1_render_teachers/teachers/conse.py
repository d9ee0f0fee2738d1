"""`conse:BACKBONE:TEXT`: a text-aligned dense teacher out of an ImageNet classifier and a sentence encoder.

ConSE (Norouzi et al. 2014, arXiv 1312.5650), position by position: the classifier's head answers at every position of
its last feature map (class activation, Zhou et al. 2016); the answer's `TOP` likeliest classes, weighted by their
probabilities, give the mean of their names' vectors. Several scales of the picture are averaged before that: small ones
see a whole sofa, large ones the lamp on the desk.

Vectors keep their length: where the classifier is unsure they are short, and count for less where views are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chorus_common.runtime.devices import pick_device
from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.packaged_weights import FILES
from chorus_common.runtime.weight_files import weights_fingerprint
from chorus_common.text.conse_text import name_vectors, parse_conse
from chorus_common.text.sentence_encoder import load_sentence_encoder
from stage1_render_teachers.teachers.protocol import fingerprint_of
from stage1_render_teachers.teachers.timm_teacher import create_classifier
from stage1_render_teachers.teachers.token_teacher import PatchNetwork, TokenTeacher

VERSION = 1

#: Pixels of the picture per cell at scale 1, pixels per position of the backbone, and the scales that are averaged.
PATCH, STRIDE, SCALES = 16, 16, (0.5, 1.0)

#: Classes that count at a position (ConSE's T).
TOP = 10

#: timm's model behind the short name of a packaged backbone.
BACKBONES = {"lite0": "tf_efficientnet_lite0"}


class ConseNetwork(nn.Module):
    """Pictures [B, 3, rows * PATCH, cols * PATCH] -> [B, rows, cols, C]."""

    def __init__(self, classifier: Any, names: Tensor, scales: Sequence[float] = SCALES) -> None:
        super().__init__()
        self.classifier, self.scales = classifier, tuple(scales)
        self.names: Tensor
        self.register_buffer("names", names)  # [1000, C]

    def forward(self, x: Tensor) -> Tensor:
        rows, cols = x.shape[-2] // PATCH, x.shape[-1] // PATCH
        probability = self.probabilities(x, (rows, cols))
        best, index = probability.topk(TOP, dim=-1)
        share = torch.zeros_like(probability).scatter_(-1, index, best / best.sum(dim=-1, keepdim=True))
        return share @ self.names

    def probabilities(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Class probabilities [B, rows, cols, 1000], the mean over the scales."""
        total = x.new_zeros(())
        for scale in self.scales:
            sides = [max(STRIDE, round(length * scale / STRIDE) * STRIDE) for length in x.shape[-2:]]
            resized = F.interpolate(x, size=sides, mode="bicubic", align_corners=False, antialias=True)
            maps = position_logits(self.classifier, resized).softmax(dim=1)
            total = total + F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        return (total / len(self.scales)).permute(0, 2, 3, 1)


def position_logits(classifier: Any, x: Tensor) -> Tensor:
    """The classifier's own head at every position of its last map: [B, 1000, h, w] of pictures [B, 3, H, W]."""
    maps = classifier.forward_features(x)  # [B, C, h, w]
    batch, _, h, w = maps.shape
    cells = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1], 1, 1)
    return classifier.forward_head(cells).view(batch, h, w, -1).permute(0, 3, 1, 2)


def build_conse(argument: str, device: str = "cpu") -> TokenTeacher:
    """The teacher of `BACKBONE:TEXT[@PRECISION]`.

    BACKBONE: lite0 (make real-teachers), or a convolutional classifier of timm with weights from its hub. TEXT: minilm,
    or a folder with a sentence encoder. Raises ConfigError or WeightsError, one line each.
    """
    parts = parse_conse(f"conse:{argument}")
    encoder = load_sentence_encoder(parts.text)
    names = name_vectors(encoder)
    model = BACKBONES.get(parts.backbone, parts.backbone)
    classifier, settings = create_classifier(model, parts.backbone if _is_packaged(parts.backbone) else "", STRIDE)
    if classifier.num_classes != len(names):
        raise ConfigError(
            f"conse:{argument}: {model} has {classifier.num_classes} classes, not ImageNet's {len(names)}"
        )
    network = ConseNetwork(classifier, torch.from_numpy(np.ascontiguousarray(names - names.mean(axis=0))))
    weights = encoder.fingerprint + fingerprint_of(
        "conse", VERSION, weights_fingerprint(classifier), PATCH, STRIDE, SCALES, TOP
    )[:8]  # fmt: skip
    return TokenTeacher(
        spec=parts.spec,
        weights=weights,
        network=PatchNetwork(
            module=network, tokens=network, patch=PATCH, channels=encoder.channels,
            mean=settings["mean"], std=settings["std"], unit=False,
        ),
        device=pick_device(device),
        precision=parts.precision,  # type: ignore[arg-type]
        text_aligned=True,
    )  # fmt: skip


def _is_packaged(name: str) -> bool:
    return any(file.name == name and file.role == "ImageNet backbone" for file in FILES)
