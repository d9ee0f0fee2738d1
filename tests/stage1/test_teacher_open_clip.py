"""CLIP and SigLIP 2 through open_clip: dense tokens against the library's own towers, and the text side.

Small architectures of the real kinds, with seeded random weights saved as open_clip saves them and read back through
the specs; the published sizes are in the tests marked slow.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import ConfigError, WeightsError
from chorus_common.text import load_text_encoder
from chorus_common.text.open_clip_model import load_open_clip
from stage1_render_teachers.teachers import DenseTeacher, build_teacher
from stage1_render_teachers.teachers.open_clip_teacher import patch_network, pool_each_token, value_path
from stage1_render_teachers.teachers.protocol import PictureTeacher
from tests.stage1.dense_teacher_checks import check_contract, check_geometry, cosine, pictures

TEXT: dict[str, Any] = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
CLIP_TINY = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": TEXT,
}
SIGLIP_TINY = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 160,
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        **TEXT,
        "context_length": 64,
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP2",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def save_random(name: str, folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    path = folder / f"{name}.safetensors"
    state = open_clip.create_model(name).state_dict()
    # Latents and biases start at zero; random ones take part in the comparison.
    state = {key: value if value.any() else 0.1 * torch.randn_like(value) for key, value in state.items()}
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("open_clip")
    before = list(open_clip.factory._MODEL_CONFIG_PATHS)
    for name, config in (("clip-tiny", CLIP_TINY), ("siglip-tiny", SIGLIP_TINY)):
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")
    yield {name: save_random(name, folder) for name in ("clip-tiny", "siglip-tiny")}
    open_clip.factory._MODEL_CONFIG_PATHS[:] = before
    for name in ("clip-tiny", "siglip-tiny"):
        open_clip.factory._MODEL_CONFIGS.pop(name)


def normalised(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def build_dense(spec: str) -> DenseTeacher:
    teacher = build_teacher(spec)
    assert isinstance(teacher, DenseTeacher)
    return teacher


@pytest.mark.parametrize("name", ["clip-tiny", "siglip-tiny"])
def test_vectors_of_whole_pictures_are_the_librarys_own(files: dict[str, Path], name: str) -> None:
    teacher = build_dense(f"open_clip:{name}:{files[name]}")
    assert isinstance(teacher, PictureTeacher)
    side = {"clip-tiny": 64, "siglip-tiny": 160}[name]
    assert teacher.picture_size == side
    images = pictures(3, 5, side, side)
    model = load_open_clip(f"{name}:{files[name]}")
    with torch.inference_mode():
        x = normalised(images, model.mean, model.std)  # type: ignore[arg-type]
        expected = model.network.encode_image(x, normalize=True).numpy()
    found = teacher.picture_embeddings(images)
    assert found.shape == (5, teacher.channels)
    assert cosine(found, expected).min() > 0.9999
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert teacher.picture_embeddings(images[:0]).shape == (0, teacher.channels)


# --- CLIP --------------------------------------------------------------------------------------------------------


def clip_twin(visual: Any, x: Tensor) -> Tensor:
    """Tokens of the library up to the last block, then attention in which each token sees itself only."""
    tokens = visual.forward_intermediates(x, indices=[len(visual.transformer.resblocks) - 2], intermediates_only=True)
    tokens = tokens["image_intermediates"][0].permute(0, 2, 3, 1)  # [B, rows, cols, width]
    last = visual.transformer.resblocks[-1]
    alone = last.ln_1(tokens).reshape(-1, 1, tokens.shape[-1])  # sequences of one token
    spoken = last.attn(alone, alone, alone, need_weights=False)[0].reshape(tokens.shape)
    return torch.nn.functional.normalize(visual.ln_post(spoken) @ visual.proj, dim=-1)


@pytest.mark.parametrize(("rows", "cols"), [(4, 4), (3, 6), (7, 2)])
def test_clip_tokens_are_the_librarys_attention_of_each_token_to_itself(
    files: dict[str, Path], rows: int, cols: int
) -> None:
    teacher = build_dense(f"open_clip:clip-tiny:{files['clip-tiny']}")
    assert teacher.text_aligned
    assert teacher.channels == 48
    grid = CellGrid(cols * 16, rows * 16, 16)
    images = pictures(0, 2, grid.width, grid.height)
    reference = open_clip.create_model(
        "clip-tiny", pretrained=str(files["clip-tiny"]), force_image_size=(grid.height, grid.width)
    ).eval()
    with torch.inference_mode():
        expected = clip_twin(
            reference.visual, normalised(images, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        ).numpy()
    features = teacher.features(images, grid)
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-5)
    assert cosine(features, expected).min() > 0.9999


def test_value_path_is_attention_to_oneself(files: dict[str, Path]) -> None:
    block = load_open_clip(f"clip-tiny:{files['clip-tiny']}").network.visual.transformer.resblocks[-1]  # type: ignore
    x = torch.randn(2, 5, 64)
    alone = block.ln_1(x).reshape(10, 1, 64)
    expected = block.attn(alone, alone, alone, need_weights=False)[0].reshape(2, 5, 64)
    torch.testing.assert_close(value_path(block, x), expected, atol=1e-5, rtol=1e-4)


# --- SigLIP 2 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "cols"), [(10, 10), (3, 5)])
def test_siglip_tokens_are_the_librarys_pooling_of_each_token_alone(
    files: dict[str, Path], rows: int, cols: int
) -> None:
    teacher = build_dense(f"open_clip:siglip-tiny:{files['siglip-tiny']}")
    assert teacher.text_aligned
    grid = CellGrid(cols * 16, rows * 16, 16)
    images = pictures(1, 2, grid.width, grid.height)
    reference = open_clip.create_model("siglip-tiny", pretrained=str(files["siglip-tiny"])).eval()
    reference.visual.set_input_size((grid.height, grid.width))
    trunk = reference.visual.trunk
    mean, std = trunk.pretrained_cfg["mean"], trunk.pretrained_cfg["std"]
    with torch.inference_mode():
        tokens = trunk.forward_features(normalised(images, mean, std))[:, trunk.num_prefix_tokens :]
        pooled = trunk.attn_pool(tokens.reshape(-1, 1, tokens.shape[-1]))
        expected = reference.visual.head(trunk.head(trunk.fc_norm(pooled)))
    features = teacher.features(images, grid)
    assert teacher.channels == expected.shape[-1]
    assert cosine(features, expected.reshape(features.shape).numpy()).min() > 0.9999


def test_pe_core_tokens_are_the_librarys_pooling_of_each_token_alone(tmp_path: Path) -> None:
    """Perception Encoder's core, the smallest of its family at its real depth."""
    path = save_random("PE-Core-T-16-384", tmp_path)
    teacher = build_dense(f"open_clip:PE-Core-T-16-384:meta={path}")
    grid = CellGrid(7 * 16, 4 * 16, 16)
    images = pictures(1, 2, grid.width, grid.height)
    reference = open_clip.create_model("PE-Core-T-16-384", pretrained=str(path)).eval()
    reference.visual.set_input_size((grid.height, grid.width))
    trunk = reference.visual.trunk
    with torch.inference_mode():
        tokens = trunk.forward_features(normalised(images, (0.5,) * 3, (0.5,) * 3))[:, trunk.num_prefix_tokens :]
        pooled = trunk.attn_pool(tokens.reshape(-1, 1, tokens.shape[-1]))
        expected = reference.visual.head(trunk.head(trunk.fc_norm(pooled)))
    assert teacher.text_aligned
    assert teacher.channels == expected.shape[-1] == 512
    assert cosine(teacher.features(images, grid), expected.reshape(2, 4, 7, 512).numpy()).min() > 0.9999


@pytest.mark.slow
def test_metaclip_2_is_a_clip_tower(tmp_path: Path) -> None:
    name = "ViT-L-14-worldwide-quickgelu"
    path = save_random(name, tmp_path)
    teacher = build_dense(f"open_clip:{name}:{path}")
    grid = CellGrid(3 * 14, 2 * 14, 14)
    images = pictures(2, 1, grid.width, grid.height)
    reference = open_clip.create_model(name, pretrained=str(path), force_image_size=(grid.height, grid.width)).eval()
    model = load_open_clip(f"{name}:{path}")
    with torch.inference_mode():
        expected = clip_twin(reference.visual, normalised(images, model.mean, model.std)).numpy()  # type: ignore[arg-type]
    assert cosine(teacher.features(images, grid), expected).min() > 0.9999


def test_pooling_one_token_has_a_closed_form() -> None:
    from timm.layers import AttentionPoolLatent

    torch.manual_seed(0)
    pool = AttentionPoolLatent(96, num_heads=4, norm_layer=torch.nn.LayerNorm).eval()
    x = torch.randn(3, 7, 96)
    expected = pool(x.reshape(21, 1, 96)).reshape(3, 7, 96)
    torch.testing.assert_close(pool_each_token(pool, x), expected, atol=1e-5, rtol=1e-4)


# --- both --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip-tiny", "siglip-tiny"])
@pytest.mark.parametrize("cell", [16, 12])
def test_contract_and_geometry(name: str, cell: int, files: dict[str, Path]) -> None:
    teacher = build_dense(f"open_clip:{name}:{files[name]}")
    check_contract(teacher, cell)
    check_geometry(teacher, cell)


@pytest.mark.parametrize("name", ["clip-tiny", "siglip-tiny"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_and_of_length_one(name: str, precision: str, files: dict[str, Path]) -> None:
    full = build_dense(f"open_clip:{name}:{files[name]}")
    half = build_dense(f"open_clip:{name}:{files[name]}@{precision}")
    grid = CellGrid(80, 48, 16)
    images = pictures(2, 2, 80, 48)
    a, b = full.features(images, grid), half.features(images, grid)
    assert (a != b).any()
    assert cosine(a, b).min() > 0.99
    np.testing.assert_allclose(np.linalg.norm(b, axis=-1), 1, atol=1e-5)


def test_fingerprint_follows_picture_weights_and_precision(files: dict[str, Path], tmp_path: Path) -> None:
    spec = f"open_clip:clip-tiny:{files['clip-tiny']}"
    other = save_random("clip-tiny", tmp_path, seed=5)
    prints = [build_teacher(s).fingerprint for s in (spec, spec, f"open_clip:clip-tiny:{other}", spec + "@bf16")]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("model", "red"), [("ViT-B-16", 0.48145466), ("ViT-B-16-SigLIP2", 0.5), ("ViT-SO400M-14-SigLIP2", 0.5)]
)
def test_a_file_alone_gets_the_normalisation_of_its_family(model: str, red: float) -> None:
    from chorus_common.text.open_clip_model import _settings_of

    tags = open_clip.list_pretrained_tags_by_model(model)
    assert _settings_of(open_clip, model, "", tags)["mean"][0] == red


def test_tags_settle_what_a_file_alone_cannot() -> None:
    """ViT-L-14 was trained with two normalisations; OpenAI's weights need another activation than LAION's."""
    from chorus_common.text.open_clip_model import _settings_of

    tags = open_clip.list_pretrained_tags_by_model("ViT-L-14")
    with pytest.raises(ConfigError, match="TAG=FILE"):
        _settings_of(open_clip, "ViT-L-14", "", tags)
    assert _settings_of(open_clip, "ViT-L-14", "laion2b_s32b_b82k", tags)["mean"][0] == 0.5
    assert _settings_of(open_clip, "ViT-B-16", "openai", tags)["quick_gelu"]
    assert not _settings_of(open_clip, "ViT-B-16", "laion2b_s34b_b88k", tags)["quick_gelu"]


# --- text --------------------------------------------------------------------------------------------------------


def test_clip_texts_are_the_librarys_own(files: dict[str, Path]) -> None:
    spec = f"open_clip:clip-tiny:{files['clip-tiny']}"
    encoder = load_text_encoder(spec)
    assert (encoder.spec, encoder.channels) == (spec, 48)
    texts = ["a chair", "Shower Curtain", "sofa"] * 30  # more than one batch
    model = open_clip.create_model("clip-tiny", pretrained=str(files["clip-tiny"])).eval()
    with torch.inference_mode():
        expected = model.encode_text(open_clip.get_tokenizer("clip-tiny")(texts), normalize=True).numpy()
    vectors = encoder.encode(texts)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(["A CHAIR"]), vectors[:1], atol=1e-5)
    assert encoder.encode([]).shape == (0, 48)


def test_picture_and_text_know_each_other(files: dict[str, Path], tmp_path: Path) -> None:
    spec = f"open_clip:clip-tiny:{files['clip-tiny']}@bf16"
    text, pictures_of = load_text_encoder(spec), build_dense(spec)
    assert text.channels == pictures_of.channels
    assert pictures_of.fingerprint.startswith(text.pair)
    other = build_dense(f"open_clip:clip-tiny:{save_random('clip-tiny', tmp_path, seed=5)}")
    assert not other.fingerprint.startswith(text.pair)


class _Tokenizer:
    """Stands for the package transformers: records what it is asked and gives one id per character."""

    asked: list[tuple[list[str], int]] = []  # noqa: RUF012
    source = ""

    @classmethod
    def from_pretrained(cls, name: str, **_: Any) -> _Tokenizer:
        cls.source = name
        return cls()

    def __call__(self, texts: list[str], *, max_length: int, **_: Any) -> Any:
        self.asked.append((texts, max_length))
        ids = torch.zeros(len(texts), max_length, dtype=torch.long)
        for row, text in zip(ids, texts):
            row[: len(text)] = torch.tensor([ord(c) % 1000 for c in text])
        return types.SimpleNamespace(input_ids=ids)


def test_siglip_texts_are_canonical_and_64_tokens(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(AutoTokenizer=_Tokenizer))
    encoder = load_text_encoder(f"open_clip:siglip-tiny:{files['siglip-tiny']}")
    assert _Tokenizer.source == "timm/ViT-B-16-SigLIP2"
    a, b = encoder.encode(["A photo of a Shower-Curtain!", "a photo of a showercurtain"])
    assert _Tokenizer.asked[-1] == (["a photo of a showercurtain"] * 2, 64)
    np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(a), 1, atol=1e-5)

    beside = files["siglip-tiny"].parent / "tokenizer.json"
    beside.write_text("{}")
    load_text_encoder(f"open_clip:siglip-tiny:{files['siglip-tiny']}")
    beside.unlink()
    assert _Tokenizer.source == str(beside.parent)


def test_a_missing_tokenizer_package_is_one_line(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # what an uninstalled package looks like to an import
    with pytest.raises(WeightsError, match="pip install transformers"):
        load_text_encoder(f"open_clip:siglip-tiny:{files['siglip-tiny']}")


# --- what can be wrong -------------------------------------------------------------------------------------------


def test_unknown_names_say_what_is_known(files: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'ViT-B-16'"):
        build_teacher("open_clip:ViT-B-166:openai")
    with pytest.raises(ConfigError, match="laion2b_s34b_b88k"):
        build_teacher("open_clip:ViT-B-16:laion3b")
    with pytest.raises(ConfigError, match=r"a tag .*, a file or TAG=FILE"):
        build_teacher("open_clip:ViT-B-16")
    with pytest.raises(ConfigError, match="--device cuda:99"):
        build_teacher(f"open_clip:clip-tiny:{files['clip-tiny']}", "cuda:99")
    with pytest.raises(ConfigError, match="no text side"):
        load_text_encoder("timm:vit_small_patch14_dinov2.lvd142m")


def test_missing_and_wrong_files_are_one_line(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file; download"):
        build_teacher(f"open_clip:clip-tiny:{tmp_path}/none.pt")
    with pytest.raises(WeightsError, match="does not fit clip-tiny"):
        build_teacher(f"open_clip:clip-tiny:{files['siglip-tiny']}")


def test_without_network_the_line_says_what_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"https://huggingface.co/timm/ViT-B-16-SigLIP2 and write .*webli=FILE"):
        build_teacher("open_clip:ViT-B-16-SigLIP2:webli")


def test_a_tower_without_a_read_out_is_refused(files: dict[str, Path]) -> None:
    model = load_open_clip(f"clip-tiny:{files['clip-tiny']}")
    model.network.visual.attn_pool = torch.nn.Identity()  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="no dense read-out"):
        patch_network(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-SigLIP2"])
def test_published_architectures(name: str, tmp_path: Path) -> None:
    teacher = build_dense(f"open_clip:{name}:{save_random(name, tmp_path)}")
    check_contract(teacher, 16)
    check_geometry(teacher, 16)
