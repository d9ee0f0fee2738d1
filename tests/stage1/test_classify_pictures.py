"""The program that classifies pictures, against the network asked about one picture after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
from click.testing import CliRunner

from chorus_common.runtime.errors import ConfigError
from stage1_render_teachers.classify_pictures import BATCH, classify, command
from tests.stage1.real_weights import needs_real_teachers


def test_pictures_are_classified_one_by_one() -> None:
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv3_small_050").eval()
    settings = timm.data.resolve_model_data_config(network)
    pictures = np.random.default_rng(0).integers(0, 256, (BATCH + 2, 64, 64, 3), dtype=np.uint8)
    found = classify(pictures, network, settings)
    mean, std = np.array(settings["mean"]), np.array(settings["std"])
    with torch.inference_mode():
        for picture, logits in list(zip(pictures, found))[:: BATCH // 2]:
            plain = torch.from_numpy(((picture / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32))
            np.testing.assert_allclose(logits, network(plain)[0].numpy(), atol=1e-4)


def test_what_is_no_array_of_pictures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pictures.npy"
    for bad in (np.zeros((2, 8, 8, 3)), np.zeros((0, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)):
        np.save(path, bad)
        called = CliRunner().invoke(command, [str(path), str(tmp_path / "out.npy")])
        assert isinstance(called.exception, ConfigError)
        assert "expected pictures [M, S, S, 3] u8" in str(called.exception)
    path.write_text("text")
    called = CliRunner().invoke(command, [str(path), str(tmp_path / "out.npy")])
    assert "no readable .npy file" in str(called.exception)


@needs_real_teachers
def test_a_photograph_of_a_cat(tmp_path: Path) -> None:
    import skimage.data
    from PIL import Image

    from chorus_common.text.conse_text import class_names

    cat = np.asarray(Image.fromarray(skimage.data.chelsea()[:300, 80:380]).resize((224, 224)))
    np.save(tmp_path / "pictures.npy", cat[None])
    called = CliRunner().invoke(
        command, [str(tmp_path / "pictures.npy"), str(tmp_path / "out.npy")], standalone_mode=False
    )
    assert called.exception is None, called.exception
    assert "cat" in class_names()[int(np.load(tmp_path / "out.npy")[0].argmax())][0]
