"""How a scene becomes Utonia's input: half size, voxels of 0.01 of that, zeros for what a scene does not have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from chorus_common.scene import GaussianScene
from stage2_distill.encoder import preset_config
from stage2_distill.encoder.inputs import scene_inputs


def scene(normals: bool) -> GaussianScene:
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(200, 3))
    return GaussianScene(
        means=rng.uniform(-1, 1, (200, 3)).astype(np.float32),
        quats=np.tile(np.float32([1, 0, 0, 0]), (200, 1)),
        scales=np.full((200, 3), 0.01, np.float32),
        opacities=rng.uniform(0.1, 0.9, 200).astype(np.float32),
        colors=rng.uniform(0, 1, (200, 3)).astype(np.float32),
        normals=(direction / np.linalg.norm(direction, axis=1)[:, None]).astype(np.float32) if normals else None,
    )


def test_rooms_are_seen_at_half_size() -> None:
    config = preset_config("utonia")
    s = scene(normals=True)
    batch, inverse = scene_inputs(s, config)
    halved = replace(s, means=s.means * np.float32(0.5), scales=s.scales * np.float32(0.5))
    inputs = config.inputs.model_copy(update={"coord_scale": 1.0, "grid_size": 0.01})
    expected, at = scene_inputs(halved, config.model_copy(update={"inputs": inputs}))
    np.testing.assert_array_equal(inverse, at)
    np.testing.assert_allclose(batch.feat.numpy(), expected.feat.numpy(), atol=1e-6)
    np.testing.assert_allclose(batch.coord.numpy(), expected.coord.numpy(), atol=1e-6)
    np.testing.assert_array_equal(batch.grid_coord.numpy(), expected.grid_coord.numpy())
    np.testing.assert_allclose(config.inputs.metres(batch.coord).numpy()[inverse][:, 2].min(), 0, atol=1e-6)


def test_missing_normals_and_colours_are_zeros() -> None:
    config = preset_config("utonia")
    batch, _ = scene_inputs(scene(normals=False), config)
    assert not batch.feat[:, 6:].any()
    assert batch.feat[:, 3:6].any()
    colourless, _ = scene_inputs(scene(normals=True), config, absent=("color",))
    assert not colourless.feat[:, 3:6].any()
    assert colourless.feat[:, 6:].any()
    estimated, _ = scene_inputs(scene(normals=False), preset_config("sonata"))
    assert estimated.feat[:, 6:].any()
