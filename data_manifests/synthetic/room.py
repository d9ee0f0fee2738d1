"""One furnished room: drawn from a seed, as Gaussians or as the points of a scan, seen by cameras."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet
from chorus_common.scene import GaussianScene, canonical_quats
from data_manifests.synthetic.model import (
    STRUCTURE,
    Model,
    apply,
    build_model,
    generator,
    sample_model,
    surface_colors,
    turned_boxes,
)
from data_manifests.synthetic.options import DOMAINS, DomainStyle, RoomOptions
from data_manifests.synthetic.sampling import Samples
from data_manifests.synthetic.scan import scan_room, scan_samples
from data_manifests.synthetic.trajectory import CameraOptics, Surface, draw_cameras

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class InstanceInfo:
    """One object: its instance id, ScanNet20 name ("" for none), raw ScanNet category, assembly, and solid boxes [S, 8]
    in the world (centre x, centre y, half width, half depth, cos yaw, sin yaw, z0, z1).
    """

    id: int
    label: str
    category: str
    group: int
    boxes: F64


@dataclass(frozen=True, eq=False)
class SyntheticRoom:
    """A finished room. `scene.parts` holds part ids unique in the room: part p is called part_names[p] and belongs to
    instance part_instances[p].
    """

    scene: GaussianScene
    cameras: CameraSet
    part_names: tuple[str, ...]
    part_instances: tuple[int, ...]
    instances: tuple[InstanceInfo, ...]
    room_type: str
    model: Model


def generate_room(seed: int, options: RoomOptions | None = None) -> SyntheticRoom:
    """A furnished room as Gaussians with ScanNet20 labels, instances and parts, and cameras that see all of it.

    The result is a pure function of (seed, options). Frame: metres, z up, floor at z = 0, turned about z at random in
    most rooms.

    >>> room = generate_room(7, RoomOptions(gaussians=2_000, views=4))
    >>> room.scene.label_space, len(room.cameras)
    ('scannet20', 4)
    """
    options = options or RoomOptions()
    style = DOMAINS[options.domain]
    model = build_model(seed, options)
    noise_rng, sample_rng, camera_rng = (generator(seed, k) for k in ("noise", "samples", "cameras"))
    boxes = np.concatenate([p.boxes() for p in model.items if p.item.category not in STRUCTURE])
    back = np.linalg.inv(model.world).astype(np.float64)
    if style.scan is None:
        samples = sample_model(model, options.gaussians, sample_rng)
        colors = surface_colors(model, samples)
        scene = to_gaussians(model, samples, colors, style, noise_rng, name=f"room_{seed:06d}")
    else:
        samples = scan_samples(model, options.gaussians, style.scan, sample_rng, boxes)
        scene = scan_room(model, samples, style.scan, noise_rng, name=f"room_{seed:06d}")
    optics = CameraOptics(options.width, options.height, float(camera_rng.uniform(65, 75)))
    structural = np.array([model.items[i].item.category in STRUCTURE for i in model.part_items])
    weights = np.where(structural[model.patch_parts[samples.patch]], 0.35, 1.0)  # walls are large and dull
    surface = Surface(apply(back, samples.point), samples.normal @ back[:3, :3].T, weights)
    cameras = draw_cameras(camera_rng, model.plan, turned_boxes(back, boxes), surface, options.views, optics)
    cameras = replace(cameras, viewmats=cameras.viewmats @ back)
    return SyntheticRoom(scene, cameras, model.part_names, model.part_items, describe(model), model.room_type, model)


def describe(model: Model) -> tuple[InstanceInfo, ...]:
    """One entry per item; instance ids count from 0."""
    return tuple(
        InstanceInfo(i, p.item.label, p.item.category, model.groups[i], p.boxes()) for i, p in enumerate(model.items)
    )


def to_gaussians(
    model: Model, samples: Samples, colors: F64, style: DomainStyle, rng: np.random.Generator, name: str
) -> GaussianScene:
    """Flat Gaussians on the surface: 0.62-0.74 of the sample distance along it, thin across it."""
    n = len(samples.point)
    tangent, normal = samples.tangent, samples.normal
    rotation = np.stack([tangent, np.cross(normal, tangent), normal], axis=-1)  # columns are the axes
    spread = np.exp(rng.normal(0, style.scale_noise, (n, 2)))
    scales = np.concatenate([samples.step * rng.uniform(0.62, 0.74, (n, 1)) * spread, np.zeros((n, 1))], axis=1)
    scales[:, 2] = np.clip(0.1 * samples.step.min(1), 0.001, 0.008)
    scales = np.clip(scales, 0.0008, 0.6)
    means = samples.point + rng.normal(0, style.position_noise, (n, 1)) * normal
    colors = np.clip(colors + rng.normal(0, style.color_noise, (n, 3)), 0, 1)
    part = model.patch_parts[samples.patch]
    labels = model.part_labels[part]
    instances = np.array(model.part_items, dtype=np.int64)[part]
    scene = GaussianScene(
        means=means.astype(np.float32), quats=rotations_to_quats(rotation), scales=scales.astype(np.float32),
        opacities=rng.uniform(*style.opacity, n).astype(np.float32), colors=colors.astype(np.float32),
        normals=normal.astype(np.float32),
        labels=labels.astype(np.int32), instances=instances.astype(np.int32), parts=part.astype(np.int32), name=name,
        label_space="scannet20",
    )  # fmt: skip
    if style.holes or style.floaters:
        scene = _degrade(scene, style, rng)
    return scene


def _degrade(scene: GaussianScene, style: DomainStyle, rng: np.random.Generator) -> GaussianScene:
    """Holes where nothing was reconstructed, floaters where nothing is."""
    lo, hi = scene.means.min(0), scene.means.max(0)
    alive = np.ones(len(scene), dtype=bool)
    while (~alive).mean() < style.holes:
        at = scene.means[rng.integers(len(scene))]
        alive &= np.linalg.norm(scene.means - at, axis=1) > rng.uniform(0.1, 0.35)
    kept = scene.select(alive)
    n = int(style.floaters * len(kept))
    turn = canonical_quats(rng.normal(0, 1, (n, 4)))
    extra = {
        "means": rng.uniform(lo, hi, (n, 3)), "quats": turn, "scales": np.exp(rng.normal(-3.2, 0.6, (n, 3))),
        "opacities": rng.uniform(0.05, 0.5, n), "colors": kept.colors[rng.integers(len(kept), size=n)],
        "normals": np.tile([0.0, 0.0, 1.0], (n, 1)), "labels": np.full(n, -1), "instances": np.full(n, -1),
        "parts": np.full(n, -1),
    }  # fmt: skip
    joined: dict[str, Any] = {
        key: np.concatenate([getattr(kept, key), value]).astype(getattr(kept, key).dtype)
        for key, value in extra.items()
    }
    return replace(kept, **joined, source_ids=np.arange(len(kept) + n, dtype=np.int64), source_rows=len(kept) + n)


def rotations_to_quats(rotation: F64) -> NDArray[np.float32]:
    """Unit quaternions [N, 4] (w, x, y, z), w >= 0, of rotation matrices [N, 3, 3]: the numerically largest component
    comes first.
    """
    m = rotation
    t = np.stack(
        [
            1 + m[:, 0, 0] + m[:, 1, 1] + m[:, 2, 2], 1 + m[:, 0, 0] - m[:, 1, 1] - m[:, 2, 2],
            1 - m[:, 0, 0] + m[:, 1, 1] - m[:, 2, 2], 1 - m[:, 0, 0] - m[:, 1, 1] + m[:, 2, 2],
        ], axis=1,
    )  # fmt: skip
    a, b, c = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    d, e, f = m[:, 0, 1] + m[:, 1, 0], m[:, 0, 2] + m[:, 2, 0], m[:, 1, 2] + m[:, 2, 1]
    forms = np.stack(
        [
            np.stack([t[:, 0], a, b, c], 1), np.stack([a, t[:, 1], d, e], 1),
            np.stack([b, d, t[:, 2], f], 1), np.stack([c, e, f, t[:, 3]], 1),
        ], axis=1,
    )  # fmt: skip
    return canonical_quats(forms[np.arange(len(m)), t.argmax(1)])
