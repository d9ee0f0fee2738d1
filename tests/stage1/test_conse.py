"""ConSE against doing it position by position, and the real one on photographs."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import timm
import torch
import torch.nn.functional as F

from chorus_common.lifting import CellGrid
from chorus_common.text import load_text_encoder
from stage1_render_teachers.teachers import DenseTeacher, build_teacher
from stage1_render_teachers.teachers.conse import PATCH, STRIDE, TOP, ConseNetwork, position_logits
from tests.stage1.dense_teacher_checks import pictures
from tests.stage1.real_weights import needs_real_teachers


def classifier(name: str = "tf_efficientnet_lite0") -> torch.nn.Module:
    torch.manual_seed(0)
    options = {"output_stride": STRIDE} if name.startswith("tf_") else {}
    return timm.create_model(name, **options).eval()


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_every_position_gets_the_classifiers_own_answer(name: str) -> None:
    """A position's feature, repeated over the whole map, through the network's pooling and head."""
    network = classifier(name)
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        logits = position_logits(network, x)
        maps = network.forward_features(x)
        assert logits.shape == (2, 1000, *maps.shape[2:])
        for b, r, c in ((0, 0, 0), (1, 1, 2), (0, 0, 1)):
            alone = maps[b : b + 1, :, r : r + 1, c : c + 1].expand(-1, -1, 7, 7)
            torch.testing.assert_close(logits[b, :, r, c], network.forward_head(alone)[0], atol=1e-4, rtol=1e-4)


def test_vectors_are_convex_combinations_of_the_likeliest_names() -> None:
    network = classifier()
    names = torch.randn(1000, 8)
    x = torch.randn(1, 3, 2 * PATCH, 3 * PATCH)
    with torch.inference_mode():
        found = ConseNetwork(network, names, scales=(1.0,))(x)[0]
        logits = position_logits(network, F.interpolate(x, size=(32, 48), mode="bicubic", antialias=True))
        for r, c in ((0, 0), (1, 2)):
            probability = logits[0, :, r, c].softmax(0)
            best = sorted(range(1000), key=lambda k: -probability[k])[:TOP]
            expected = sum(probability[k] * names[k] for k in best) / sum(probability[k] for k in best)
            torch.testing.assert_close(found[r, c], expected, atol=1e-4, rtol=1e-4)


@needs_real_teachers
def test_real_photographs_are_named() -> None:
    teacher = build_teacher("conse:lite0:minilm")
    text = load_text_encoder("conse:lite0:minilm")
    assert isinstance(teacher, DenseTeacher)
    assert teacher.text_aligned
    assert teacher.channels == text.channels == 384
    assert teacher.fingerprint.startswith(text.pair)
    queries = text.encode(["cat", "espresso", "sofa", "street sign"])
    for image, best in ((skimage.data.chelsea(), 0), (skimage.data.coffee(), 1)):
        features = teacher.features(image[None], CellGrid(image.shape[1], image.shape[0], 16))[0]
        assert (features @ queries.T).mean(axis=(0, 1)).argmax() == best


@needs_real_teachers
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_real_backbone_is_timms_own_forward(stride: int) -> None:
    suffix = "" if stride == 32 else f"/{stride}"
    teacher = build_teacher(f"timm:tf_efficientnet_lite0{suffix}:lite0")
    assert isinstance(teacher, DenseTeacher)
    grid = CellGrid(5 * stride, 3 * stride, stride)
    images = pictures(1, 2, grid.width, grid.height)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    reference = timm.create_model("tf_efficientnet_lite0", output_stride=stride)
    reference.load_state_dict(build_teacher("conse:lite0:minilm").network.module.classifier.state_dict())  # type: ignore[union-attr]
    with torch.inference_mode():
        expected = reference.eval().forward_features(x).permute(0, 2, 3, 1).numpy()
    features = teacher.features(images, grid)
    assert features.shape == expected.shape == (2, 3, 5, 1280)
    np.testing.assert_allclose(features, expected, atol=1e-3)
