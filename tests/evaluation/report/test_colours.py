from __future__ import annotations

import numpy as np

from chorus_common.labels import SCANNET20
from evaluation.report.colours import PcaColours, class_palette, heat
from evaluation.report.views import class_shares, informative_views, spread_views
from tests.evaluation.rooms import GRID, make_cameras, make_index, make_scene


def test_pca_finds_the_directions_and_is_repeatable() -> None:
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((8, 8)))[0][:, :3]
    features = (rng.standard_normal((500, 3)) * [5, 3, 2]) @ axes.T + 0.01 * rng.standard_normal((500, 8)) + 4
    basis = PcaColours.fit([features[:250].astype(np.float32), features[250:].astype(np.float32)])
    np.testing.assert_allclose(np.abs(axes.T @ basis.directions), np.eye(3), atol=0.15)
    assert (basis.directions[np.abs(basis.directions).argmax(axis=0), range(3)] > 0).all()
    colours = basis(features.astype(np.float32))
    assert colours.min() == 0
    assert colours.max() == 1
    assert 0.005 < (colours == 0).mean() < 0.02  # the 1st percentile is clipped
    again = PcaColours.fit([features[:250].astype(np.float32), features[250:].astype(np.float32)])
    np.testing.assert_array_equal(basis.directions, again.directions)


def test_pca_of_few_channels_and_constant_features() -> None:
    assert np.isfinite(PcaColours.fit([np.ones((10, 2), np.float32)])(np.ones((4, 2), np.float32))).all()
    assert PcaColours.fit([np.zeros((1, 5), np.float32)])(np.zeros((4, 5), np.float32)).shape == (4, 3)


def test_palette_tells_classes_apart() -> None:
    palette = class_palette(SCANNET20)
    assert palette.shape == (len(SCANNET20) + 1, 3)
    distance = np.linalg.norm(palette[:, None] - palette[None], axis=-1)
    assert distance[~np.eye(len(palette), dtype=bool)].min() > 0.08


def test_heat_goes_from_blue_to_red() -> None:
    low, high = heat(np.array([-5.0, 5.0], np.float32), -1, 1)
    assert low[2] > low[0]
    assert high[0] > high[2]


def test_class_shares_equal_the_plain_sum() -> None:
    scene, cameras = make_scene(0), make_cameras()
    index = make_index(scene, cameras)
    labels = scene.labels[index.order]  # type: ignore[index]
    shares = class_shares(index, labels, len(SCANNET20))
    expected = np.zeros_like(shares)
    total = np.zeros(len(cameras))
    for row in range(len(index)):
        for j in range(index.indptr[row], index.indptr[row + 1]):
            view = index.columns[j] // GRID.cells
            total[view] += index.weights[j]
            if labels[row] >= 0:
                expected[view, labels[row]] += index.weights[j]
    np.testing.assert_allclose(shares, expected / total[:, None], rtol=1e-6)


def test_views_show_something_new_each() -> None:
    names = ["wall", "chair", "table", "lamp"]
    shares = np.array([[0.9, 0.1, 0, 0], [0.2, 0.5, 0.3, 0], [0.2, 0.5, 0.29, 0], [0.9, 0, 0, 0.1], [1, 0, 0, 0]])
    assert informative_views(shares, names, 3) == [1, 3, 2]
    assert informative_views(shares, names, 9)[-1] == 4
    assert spread_views(10, 3) == [0, 4, 9]
    assert spread_views(2, 5) == [0, 1]
    assert spread_views(0, 3) == []
