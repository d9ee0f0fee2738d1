"""A room as a hand-held depth sensor leaves it: points where frames have seen surfaces, with the sensor's errors.

What a scan lacks in comparison with a room's own Gaussians: ceilings, the tops and backs that no frame saw, panes and
screens without depth; it is evenly dense, its surfaces wave by centimetres, its colours drift from frame to frame, and
its normals are estimated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chorus_common.cameras import look_at, pinhole
from chorus_common.scene import GaussianScene
from chorus_common.scene_io import points_to_gaussians
from data_manifests.synthetic.model import Model, apply, generator, hidden, spacing_for, surface_colors, turned_boxes
from data_manifests.synthetic.options import ScanStyle
from data_manifests.synthetic.plan import Plan
from data_manifests.synthetic.sampling import Samples, Soup, sample
from data_manifests.synthetic.trajectory import CameraOptics, Surface, free_positions, visible

F64 = NDArray[np.float64]
Rng = np.random.Generator

#: The sensor: pixels and degrees of its field of view (a Structure sensor's), metres that it measures.
OPTICS, NEAREST, FURTHEST = CameraOptics(640, 480, 58.0), 0.4, 4.5
#: Metres over which errors of pose and exposure change.
WAVELENGTH = 0.5


def seen_by_frames(rng: Rng, plan: Plan, boxes: F64, surface: Surface, style: ScanStyle) -> NDArray[np.bool_]:
    """Which points [K] of `surface` enough frames of a hand-held walk have seen. Everything is in the plan's frame;
    boxes [S, 8] stand in the way.
    """
    k = pinhole(OPTICS.width, OPTICS.height, OPTICS.fov)
    eyes = free_positions(rng, plan, boxes, style.frames)
    count = np.zeros(len(surface.points), dtype=np.int64)
    for i in range(style.frames):
        eye, yaw = eyes[i % len(eyes)], rng.uniform(-np.pi, np.pi)
        pitch = np.radians(style.pitch + rng.normal(0, 12))
        forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
        view = look_at(eye, eye + forward, (0.0, 0.0, 1.0))
        depth = surface.points @ view[2, :3] + view[2, 3]
        measured = (depth > NEAREST) & (depth < FURTHEST)
        count += visible(surface, view, k, OPTICS)[0] & measured
    return np.asarray(count >= style.least_frames)


def smooth_field(rng: Rng, points: F64, channels: int) -> F64:
    """Noise [K, channels] of unit deviation that changes over about `WAVELENGTH` metres."""
    low = points.min(axis=0) - WAVELENGTH
    shape = np.ceil((points.max(axis=0) + WAVELENGTH - low) / WAVELENGTH).astype(int) + 1
    at = ((points - low) / WAVELENGTH).T
    nodes = rng.normal(size=(channels, *shape))
    # linear interpolation between nodes of unit deviation leaves (2/3)^3 of the variance on average
    return np.stack([ndimage.map_coordinates(field, at, order=1) for field in nodes], axis=1) * 1.5**1.5


def as_scan(rng: Rng, points: F64, normals: F64, colors: F64, style: ScanStyle, **ids: Any) -> GaussianScene:
    """Seen surface points [K, 3] with their colours [K, 3] as the points of a scan; ids: further columns."""
    along = style.waves * smooth_field(rng, points, 1) + rng.normal(0, style.noise, (len(points), 1))
    drift = 1 + style.drift * smooth_field(rng, points, 1) + style.drift / 3 * smooth_field(rng, points, 3)
    noisy = np.clip(colors * drift + rng.normal(0, style.color_noise, colors.shape), 0, 1)
    eight_bits = np.rint(noisy * 255).astype(np.uint8)
    return points_to_gaussians(points + along * normals, eight_bits, **ids)


def scan_samples(model: Model, target: int, style: ScanStyle, rng: np.random.Generator, boxes: F64) -> Samples:
    """About `target` evenly spaced surface points that a scan's frames have seen; boxes [S, 8]: the furniture's."""
    soup = Soup.build(list(model.patches))
    even = np.ones(len(model.patches))
    gloss = np.array([part.gloss for thing in model.items for part in thing.item.parts])
    dark = (gloss > 0) & (generator(model.seed, "glossy").random(len(gloss)) < style.glossy)
    back = np.linalg.inv(model.world).astype(np.float64)

    def seen(samples: Samples) -> NDArray[np.bool_]:
        weights = np.ones(len(samples.point))
        surface = Surface(apply(back, samples.point), samples.normal @ back[:3, :3].T, weights)
        walk = generator(model.seed, "walk")
        found = seen_by_frames(walk, model.plan, turned_boxes(back, boxes), surface, style)
        return found & ~hidden(model, samples) & ~dark[model.patch_parts[samples.patch]]

    trial = sample(soup, spacing_for(soup, even, 6_000), generator(model.seed, "trial"))
    share = max(0.05, float(seen(trial).mean()))
    samples = sample(soup, spacing_for(soup, even, round(target / share)), rng)
    keep = seen(samples)
    return Samples(**{key: value[keep] for key, value in vars(samples).items()})


def scan_room(model: Model, samples: Samples, style: ScanStyle, rng: np.random.Generator, name: str) -> GaussianScene:
    """The points of a scan as Gaussians, with the ids of the surfaces they were measured on."""
    part = model.patch_parts[samples.patch]
    return as_scan(
        rng, samples.point, samples.normal, surface_colors(model, samples), style,
        labels=model.part_labels[part].astype(np.int32),
        instances=np.array(model.part_items, dtype=np.int64)[part].astype(np.int32), parts=part.astype(np.int32),
        name=name, label_space="scannet20",
    )  # fmt: skip
