"""DINOv2 with and without registers, DINOv3, PE, TIPSv2, C-RADIO: seeded random weights by the real loading path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import ConfigError, WeightsError
from stage1_render_teachers.teachers import DenseTeacher, build_teacher
from stage1_render_teachers.teachers.batching import HalvingBatches
from stage1_render_teachers.teachers.token_teacher import fit_to_grid
from tests.stage1.dense_teacher_checks import check_contract, check_geometry, cosine, pictures

#: name -> (patch, prefix tokens, mean of red). Depth is the real one; the smallest width of each family.
MODELS = {
    "vit_small_patch14_dinov2.lvd142m": (14, 1, 0.485),
    "vit_small_patch14_reg4_dinov2.lvd142m": (14, 5, 0.485),
    "vit_small_patch16_dinov3.lvd1689m": (16, 5, 0.485),
    "vit_pe_spatial_tiny_patch16_512.fb": (16, 1, 0.5),
    "vit_pe_core_tiny_patch16_384.fb": (16, 1, 0.5),
}
#: The same of families whose smallest network has some 90 million weights.
LARGE = {
    "vit_base_patch14_reg1_tipsv2.webli": (14, 2, 0.0),
    "naflexvit_base_patch16_radio_v3.c_radio": (16, 8, 0.48145466),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def save_random(name: str, folder: Path, seed: int = 0) -> Path:
    """Random weights of the architecture in the format in which timm publishes them."""
    torch.manual_seed(seed)
    path = folder / f"{name}.safetensors"
    save_file(timm.create_model(name, num_classes=0).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("timm")
    return {name: save_random(name, folder) for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_features_are_the_librarys_own(name: str, files: dict[str, Path]) -> None:
    check_features(name, files[name], *MODELS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_features_of_large_families_are_the_librarys_own(name: str, tmp_path: Path) -> None:
    check_features(name, save_random(name, tmp_path), *LARGE[name])


def test_radio_is_asked_for_by_the_name_under_which_timm_keeps_its_positions() -> None:
    with pytest.raises(ConfigError, match=r"write timm:naflexvit_base_patch16_radio_v3\.c_radio"):
        build_teacher("timm:vit_base_patch16_radio_v3.c_radio")


def check_features(name: str, file: Path, patch: int, prefix: int, red: float) -> None:
    """Against timm's own forward pass at the picture size for which timm builds the model, normalised by hand."""
    teacher = build_teacher(f"timm:{name}:{file}")
    assert isinstance(teacher, DenseTeacher)
    assert not teacher.text_aligned
    grid = CellGrid(5 * patch, 3 * patch, patch)
    images = pictures(1, 2, grid.width, grid.height)

    built_for = {} if name.startswith("naflexvit") else {"img_size": (grid.height, grid.width)}
    reference = timm.create_model(
        name, pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": str(file)}, **built_for
    ).eval()
    mean, std = reference.pretrained_cfg["mean"], reference.pretrained_cfg["std"]
    assert mean[0] == red
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[
        :, None, None
    ]
    with torch.inference_mode():
        tokens = reference.forward_features(x)[:, prefix:]
    expected = tokens.reshape(2, grid.rows, grid.cols, -1).numpy()
    features = teacher.features(images, grid)
    assert features.shape == expected.shape
    assert cosine(features, expected).min() > 0.9999
    np.testing.assert_allclose(features, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2.lvd142m", "vit_pe_spatial_tiny_patch16_512.fb"])
def test_contract_and_geometry(name: str, files: dict[str, Path]) -> None:
    """Cells of 16 pixels: patches of 14 need a resized picture, patches of 16 the picture as it is."""
    teacher = build_teacher(f"timm:{name}:{files[name]}")
    assert isinstance(teacher, DenseTeacher)
    check_contract(teacher, 16)
    check_geometry(teacher, 16)


def test_torch_files_and_safetensors_are_the_same_teacher(files: dict[str, Path], tmp_path: Path) -> None:
    name = "vit_pe_spatial_tiny_patch16_512.fb"
    from safetensors.torch import load_file

    torch.save({"model": load_file(files[name])}, tmp_path / "weights.pth")
    a, b = build_teacher(f"timm:{name}:{files[name]}"), build_teacher(f"timm:{name}:{tmp_path / 'weights.pth'}")
    assert a.fingerprint == b.fingerprint
    assert a.spec != b.spec
    other = build_teacher(f"timm:{name}:{save_random(name, tmp_path, seed=1)}")
    assert other.fingerprint != a.fingerprint


def test_half_precision_is_close_and_another_teacher(files: dict[str, Path]) -> None:
    name = "vit_pe_spatial_tiny_patch16_512.fb"
    full, half = build_teacher(f"timm:{name}:{files[name]}"), build_teacher(f"timm:{name}:{files[name]}@bf16")
    assert isinstance(full, DenseTeacher)
    assert isinstance(half, DenseTeacher)
    assert full.fingerprint != half.fingerprint
    grid = CellGrid(64, 48, 16)
    images = pictures(2, 1, 64, 48)
    a, b = full.features(images, grid), half.features(images, grid)
    assert b.dtype == np.float32
    assert (a != b).any()
    assert cosine(a, b).min() > 0.99


# --- pictures ----------------------------------------------------------------------------------------------------


def test_pictures_of_the_right_size_are_not_touched() -> None:
    images = pictures(3, 2, 64, 48)
    x = fit_to_grid(images, CellGrid(64, 48, 16), (48, 64), torch.device("cpu"))
    np.testing.assert_array_equal(np.rint(x.permute(0, 2, 3, 1).numpy() * 255), images)


def test_both_axes_are_scaled_alike() -> None:
    """Stripes of one period along x and y keep one period, also where the last cells are partial."""
    grid = CellGrid(8 * 16 + 5, 6 * 16 + 11, 16)
    image = np.zeros((1, grid.height, grid.width, 3), dtype=np.uint8)
    image[0, ::32] = 255  # a line every second cell
    image[0, :, ::32] = 255
    x = fit_to_grid(image, grid, (grid.rows * 12, grid.cols * 12), torch.device("cpu"))[0, 0]
    for line in (x[5], x[:, 5]):
        bright = np.flatnonzero(line.numpy() > 0.3)
        np.testing.assert_array_equal(bright % 24, np.zeros(len(bright)))


@pytest.mark.parametrize("patch", [14, 8, 24])
def test_resizing_keeps_centres(patch: int) -> None:
    """A ramp stays the same ramp in units of cells: no half-pixel drift towards any border."""
    grid = CellGrid(12 * 16, 9 * 16, 16)
    ramp = np.arange(grid.width)[None, None, :, None]
    images = np.broadcast_to(ramp, (1, grid.height, grid.width, 3)).astype(np.uint8)
    x = fit_to_grid(images, grid, (grid.rows * patch, grid.cols * patch), torch.device("cpu"))[0, 0] * 255
    expected = (np.arange(grid.cols * patch) + 0.5) * 16 / patch - 0.5
    inner = slice(2 * patch, -2 * patch)
    np.testing.assert_allclose(x[patch, inner], expected[inner], atol=0.05)


# --- memory ------------------------------------------------------------------------------------------------------


def test_batches_halve_until_they_fit_and_stay_there() -> None:
    sizes = []

    def forward(part: np.ndarray) -> np.ndarray:
        sizes.append(len(part))
        if len(part) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return part * 2

    batches = HalvingBatches(16, "teacher")
    items = np.arange(20)
    np.testing.assert_array_equal(np.concatenate(batches.run(forward, items)), items * 2)
    assert sizes[:4] == [16, 8, 4, 2]
    assert batches.size == 2
    sizes.clear()
    batches.run(forward, items)
    assert sizes == [2] * 10


def test_a_single_item_that_does_not_fit_is_one_line() -> None:
    def forward(part: np.ndarray) -> np.ndarray:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ConfigError, match="timm:x: out of memory with a single item"):
        HalvingBatches(4, "timm:x").run(forward, np.arange(3))


def test_other_errors_pass_through() -> None:
    def forward(part: np.ndarray) -> np.ndarray:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        HalvingBatches(4, "x").run(forward, np.arange(3))


# --- what can be wrong -------------------------------------------------------------------------------------------


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'vit_small_patch14_dinov2\.lvd142m'"):
        build_teacher("timm:vit_smal_patch14_dinov2.lvd142m")


def test_a_network_without_a_feature_map_is_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("gmlp_ti16_224", num_classes=0).state_dict(), tmp_path / "r.safetensors")
    with pytest.raises(ConfigError, match="feature map"):
        build_teacher(f"timm:gmlp_ti16_224:{tmp_path / 'r.safetensors'}")


def test_missing_and_damaged_files_are_one_line(tmp_path: Path) -> None:
    name = "vit_pe_spatial_tiny_patch16_512.fb"
    with pytest.raises(WeightsError, match=r"no such file .*; download .*huggingface.co/timm/vit_pe_spatial"):
        build_teacher(f"timm:{name}:{tmp_path / 'none.safetensors'}")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(WeightsError, match="damaged"):
        build_teacher(f"timm:{name}:{tmp_path / 'cut.safetensors'}")
    torch.save({"fc": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="does not fit"):
        build_teacher(f"timm:{name}:{tmp_path / 'other.pth'}")


class _Loader:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never be printed",)


def test_pickles_that_run_code_are_not_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"w": _Loader()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="not a plain file of tensors"):
        build_teacher(f"timm:vit_pe_spatial_tiny_patch16_512.fb:{tmp_path / 'evil.pth'}")
    assert capsys.readouterr().out == ""


def test_without_network_the_line_says_what_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"https://huggingface.co/timm/vit_pe_spatial_tiny_patch16_512.fb and write"):
        build_teacher("timm:vit_pe_spatial_tiny_patch16_512.fb")


@pytest.mark.parametrize("stride", [0, 8, 16])
def test_convolutional_features_are_the_librarys_own(stride: int, tmp_path: Path) -> None:
    name = "mobilenetv2_050"
    path = save_random(name, tmp_path)
    teacher = build_teacher(f"timm:{name}{f'/{stride}' if stride else ''}:{path}")
    assert isinstance(teacher, DenseTeacher)
    patch = stride or 32
    grid = CellGrid(3 * patch, 2 * patch, patch)
    images = pictures(1, 2, grid.width, grid.height)
    reference = timm.create_model(name, num_classes=0, output_stride=patch)
    reference.load_state_dict(load_file(path))
    mean, std = (torch.tensor(reference.pretrained_cfg[k])[:, None, None] for k in ("mean", "std"))
    with torch.inference_mode():
        x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
        expected = reference.eval().forward_features(x).permute(0, 2, 3, 1).numpy()
    features = teacher.features(images, grid)
    assert features.shape == expected.shape == (2, 2, 3, teacher.channels)
    assert cosine(features, expected).min() > 0.9999


def test_strides_that_a_network_cannot_have_are_refused(tmp_path: Path, files: dict[str, Path]) -> None:
    path = save_random("mobilenetv2_050", tmp_path)
    with pytest.raises(ConfigError, match="'x' is no stride"):
        build_teacher(f"timm:mobilenetv2_050/x:{path}")
    with pytest.raises(ConfigError, match="feature map"):
        build_teacher(f"timm:mobilenetv2_050/7:{path}")
    vit = next(iter(files))
    with pytest.raises(ConfigError, match="feature map"):
        build_teacher(f"timm:{vit}/8:{files[vit]}")
