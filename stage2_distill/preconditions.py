"""What an encoder expects of a scene, and whether a scene meets it.

An encoder trained on scenes with z up, in metres, gives numbers for any other scene, too. They mean nothing, and
nothing fails. `InputConfig` therefore states `up`, `unit` and `grid_size`, and whoever feeds an encoder asks here.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from chorus_common.scene import GaussianScene
from chorus_common.scene_check import AlignmentSettings, Finding
from chorus_common.scene_check.words import AUTO, OFF
from stage2_distill.encoder.config import EncoderConfig
from stage2_distill.encoder.inputs import centred, voxelise

#: Voxels that are looked at, the share of them that must have a neighbour, and the fewest voxels of a large scene.
_SAMPLE, _LONELY, _FEWEST, _LARGE = 20_000, 0.1, 200, 2_000


def settings_for(config: EncoderConfig, settings: AlignmentSettings) -> AlignmentSettings:
    """`settings` for this encoder: what makes no difference to it is neither estimated nor warned about."""
    told = settings.model_dump()
    if config.inputs.up == "any" and told["up"] in (AUTO, OFF):
        told["up"] = "z"
    if config.inputs.unit == "any" and told["scale"] in (AUTO, OFF):
        told["scale"] = "1"
    return AlignmentSettings(**told)


def unmet(config: EncoderConfig, scene: GaussianScene, findings: Iterable[Finding] = ()) -> list[Finding]:
    """What `scene` lacks for this encoder, as warnings; `findings`: of the check that brought it in order."""
    inputs, found = config.inputs, []
    unclear = sorted({f.topic for f in findings if f.severity == "warning" and f.topic in ("up", "scale")})
    if unclear:
        words = [*(["z up"] if inputs.up == "z" else []), *(["metres"] if inputs.unit == "metres" else [])]
        found.append(
            Finding(
                "encoder", "warning", f"{config.name} takes {' and '.join(words)}; see {' and '.join(unclear)} above"
            )
        )
    if len(scene) < _LARGE:
        return found
    grid, _, _, _ = voxelise(centred(scene.means), inputs.grid_size)
    size = f"the encoder's voxels of {inputs.grid_size:g} m"
    if len(grid) < _FEWEST:
        found.append(
            Finding("encoder", "warning", f"{len(scene)} Gaussians fill {len(grid)} of {size}", 0.9, "check --scale")
        )
    elif (share := _with_neighbour(grid)) < _LONELY:
        what = f"{share:.0%} of {size} have a neighbour: too few to tell shapes by"
        found.append(Finding("encoder", "warning", what, 0.9, "check --scale; a coarser encoder may fit"))
    return found


def _with_neighbour(grid: np.ndarray) -> float:
    """Share of the voxels [M, 3] (distinct, whole numbers) of which one of the 26 around is occupied."""
    size = grid.max(axis=0) + 3
    keys = ((grid[:, 0] + 1) * size[1] + grid[:, 1] + 1) * size[2] + grid[:, 2] + 1
    keys.sort()
    asked = keys[:: max(1, len(keys) // _SAMPLE)]
    found = np.zeros(len(asked), dtype=bool)
    for x in (-1, 0, 1):
        for y in (-1, 0, 1):
            for z in (-1, 0, 1):
                if (x, y, z) != (0, 0, 0):
                    there = asked + (x * size[1] + y) * size[2] + z
                    at = np.minimum(np.searchsorted(keys, there), len(keys) - 1)
                    found |= keys[at] == there
    return float(found.mean())
