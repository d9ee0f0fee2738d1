"""chorus-stage1 embed: a picture as one vector of a teacher's space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from chorus_common.features.picture_vector import PictureVector
from chorus_common.lifting import CellGrid
from chorus_common.runtime.errors import ChorusError
from stage1_render_teachers.cli import cli
from stage1_render_teachers.picture_embedding import CELLS, PIXELS, embed_picture, read_picture


class MeanColour:
    """A dense teacher whose feature is a cell's mean colour."""

    spec, fingerprint, channels, text_aligned = "mean:colour", "abc", 3, False

    def features(self, images: np.ndarray, grid: CellGrid) -> np.ndarray:
        out = np.zeros((len(images), grid.rows, grid.cols, 3), np.float32)
        for r in range(grid.rows):
            for c in range(grid.cols):
                cell = images[:, r * grid.cell : (r + 1) * grid.cell, c * grid.cell : (c + 1) * grid.cell]
                out[:, r, c] = cell.mean(axis=(1, 2))
        return out


def test_transparent_parts_do_not_count(tmp_path: Path) -> None:
    pixels = np.zeros((240, 320, 4), np.uint8)
    pixels[..., 2] = 255  # blue, but clear
    pixels[40:200, 60:260] = (200, 100, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    found = embed_picture(MeanColour(), read_picture(tmp_path / "cut.png"))
    wanted = np.array([200, 100, 0]) / np.linalg.norm([200, 100, 0])
    np.testing.assert_allclose(found.vector, wanted, atol=0.03)
    assert (found.spec, found.fingerprint) == ("mean:colour", "abc")


@pytest.mark.parametrize(("size", "shape"), [((1600, 400), (160, 640)), ((30, 60), (640, 320)), ((9000, 2), (16, 640))])
def test_pictures_of_any_size_get_the_same_number_of_cells(
    tmp_path: Path, size: tuple[int, int], shape: tuple[int, int]
) -> None:
    Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.shape == (*shape, 4)
    assert max(picture.shape) == CELLS * PIXELS
    assert np.isfinite(embed_picture(MeanColour(), picture).vector).all()


def test_pictures_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    Image.new("RGB", (80, 40)).save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").shape[:2] == (640, 320)


def test_the_file_comes_back(tmp_path: Path) -> None:
    vector = PictureVector(np.array([0.6, 0.8], np.float32), "a:b", "f0")
    vector.save(tmp_path / "v.npz")
    again = PictureVector.load(tmp_path / "v.npz")
    np.testing.assert_allclose(again.vector, vector.vector)
    assert (again.spec, again.fingerprint) == ("a:b", "f0")


def test_the_command(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)).save(tmp_path / "a.png")
    arguments = ["embed", str(tmp_path / "a.png"), "--teacher", "embedded:dense", "--out", str(tmp_path / "a.npz")]
    result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert result.exception is None, result.exception
    first = (tmp_path / "a.npz").read_bytes()
    found = PictureVector.load(tmp_path / "a.npz")
    assert found.spec == "embedded:dense"
    np.testing.assert_allclose(np.linalg.norm(found.vector), 1, rtol=1e-5)
    CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert (tmp_path / "a.npz").read_bytes() == first, "same input, same bytes"


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    Image.new("RGBA", (40, 40), (1, 2, 3, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    for name, teacher, out, message in (
        ("gone.png", "embedded:dense", "a.npz", "gone.png"),
        ("cut.png", "embedded:dense", "a.npz", "cut.png: not a readable picture"),
        ("clear.png", "embedded:dense", "a.npz", "transparent throughout"),
        ("a.png", "embedded:masks", "a.npz", "take a dense teacher"),
        ("a.png", "embedded:nothing", "a.npz", "unknown teacher"),
        ("a.png", "embedded:dense", "a.npy", "is a .npz file"),
    ):
        arguments = ["embed", str(tmp_path / name), "--teacher", teacher, "--out", str(tmp_path / out)]
        result = CliRunner().invoke(cli, arguments, standalone_mode=False)
        assert isinstance(result.exception, ChorusError), (arguments, result.exception)
        assert message in str(result.exception)
        assert "\n" not in str(result.exception)
