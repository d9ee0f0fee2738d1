"""One furnished room: drawn from a seed, sampled as Gaussians, seen by cameras."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet
from chorus_common.labels import SCANNET20
from chorus_common.scene import GaussianScene, canonical_quats
from data_manifests.synthetic.item import Item, Placed, oriented
from data_manifests.synthetic.layout import RoomLayout
from data_manifests.synthetic.light import Lighting, draw_lighting, shade
from data_manifests.synthetic.options import DOMAINS, DomainStyle, RoomOptions, ScanStyle
from data_manifests.synthetic.plan import Plan, draw_plan, structure
from data_manifests.synthetic.recipes import RECIPES
from data_manifests.synthetic.sampling import Samples, Soup, count_samples, sample
from data_manifests.synthetic.scan import as_scan, seen_by_frames
from data_manifests.synthetic.shapes import Patch
from data_manifests.synthetic.trajectory import CameraOptics, Surface, draw_cameras

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Walls, floor and ceiling are flat: they get by with Gaussians that much further apart than furniture.
STRUCTURE_DETAIL = 1.6
STRUCTURE = ("wall", "floor", "ceiling")
#: How far in front of a surface a box may begin and still cover it, in metres.
WALL_GAP, CONTACT_GAP = 0.07, 0.012
LABEL_IDS = {name: i for i, name in enumerate(SCANNET20)}


@dataclass(frozen=True, eq=False)
class Model:
    """A room as surfaces, in world coordinates: what both Gaussians and meshes are made from.

    items [I]: what was placed where (walls, floor and ceiling come last). groups [I]: the assembly of each. Parts are
    numbered through the whole room: part_names [Q], part_items [Q]. patches [P] with patch_parts [P].
    """

    seed: int
    room_type: str
    plan: Plan
    items: tuple[Placed, ...]
    groups: tuple[int, ...]
    part_names: tuple[str, ...]
    part_items: tuple[int, ...]
    patches: tuple[Patch, ...]
    patch_parts: I64
    lighting: Lighting
    world: F64  # [4, 4]: plan frame -> world

    def label(self, item: int) -> int:
        """ScanNet20 index of an item, -1 for what ScanNet20 does not name."""
        return LABEL_IDS.get(self.items[item].item.label, -1)

    @property
    def part_labels(self) -> I64:
        """[Q]"""
        return np.array([self.label(i) for i in self.part_items], dtype=np.int64)


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
    surface = Surface(_apply(back, samples.point), samples.normal @ back[:3, :3].T, weights)
    cameras = draw_cameras(camera_rng, model.plan, _turned(back, boxes), surface, options.views, optics)
    cameras = replace(cameras, viewmats=cameras.viewmats @ back)
    return SyntheticRoom(scene, cameras, model.part_names, model.part_items, describe(model), model.room_type, model)


def generator(seed: int, purpose: str) -> np.random.Generator:
    """An independent stream per purpose: more Gaussians or views never change the furniture."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *purpose.encode()])))


def build_model(seed: int, options: RoomOptions) -> Model:
    """Draw the floor plan, furnish it, and turn it in the world."""
    rng = generator(seed, "layout")
    style = DOMAINS[options.domain]
    names = sorted(RECIPES)
    shares = np.array([RECIPES[n].share for n in names])
    drawn = str(rng.choice(names, p=shares / shares.sum()))
    room_type = options.room_type or drawn
    recipe = RECIPES[room_type]
    shape = str(rng.choice(["rectangle", "L", "alcove"], p=[0.5, 0.28, 0.22]))
    size = (float(rng.uniform(*recipe.width)), float(rng.uniform(*recipe.depth)))
    if shape == "L":
        size = (size[0] * 1.12, size[1] * 1.12)
    plan = draw_plan(rng, size, shape)
    layout = RoomLayout(rng, plan, style.saturation)
    recipe.furnish(layout)
    groups = list(layout.groups)
    placed = list(layout.placed)
    for item in structure(rng, plan, tiled=recipe.tiled):
        placed.append(Placed(item, np.zeros(3), 0.0))
        groups.append(len(groups))
    lamps = np.array([p.position - [0, 0, 0.3] for p in placed if p.item.category == "ceiling light"]).reshape(-1, 3)
    windows = np.array([[*edge.point(s, 0.3), (z0 + z1) / 2] for edge, s, _, z0, z1 in layout.windows]).reshape(-1, 3)
    yaw = float(rng.uniform(0, 2 * np.pi)) if rng.random() < 0.75 else 0.0
    centre = plan.corners.mean(0)
    world = _turn(yaw, centre, rng.normal(0, 0.5, 2))
    lighting = draw_lighting(rng, _apply(world, lamps), _apply(world, windows), style.exposure, style.cast)
    items = tuple(Placed(p.item, _apply(world, p.position[None])[0], p.yaw + yaw) for p in placed)
    part_names: list[str] = []
    part_items: list[int] = []
    patches: list[Patch] = []
    patch_parts: list[int] = []
    for i, thing in enumerate(items):
        for part in thing.item.parts:
            made = thing.patches(part)
            patch_parts += [len(part_names)] * len(made)
            patches += made
            part_names.append(part.name)
            part_items.append(i)
    return Model(
        seed, room_type, plan, items, tuple(groups), tuple(part_names), tuple(part_items), tuple(patches),
        np.array(patch_parts, dtype=np.int64), lighting, world,
    )  # fmt: skip


def _turn(yaw: float, centre: F64, shift: F64) -> F64:
    c, s = np.cos(yaw), np.sin(yaw)
    world = np.eye(4)
    world[:2, :2] = [[c, -s], [s, c]]
    world[:2, 3] = shift - world[:2, :2] @ centre
    return world


def _apply(world: F64, points: F64) -> F64:
    return points @ world[:3, :3].T + world[:3, 3]


def _turned(pose: F64, boxes: F64) -> F64:
    """Oriented boxes [S, 8] after a turn about z and a shift, `pose` [4, 4]."""
    out = boxes.copy()
    out[:, :2] = boxes[:, :2] @ pose[:2, :2].T + pose[:2, 3]
    out[:, 4:6] = boxes[:, 4:6] @ pose[:2, :2].T
    return out


def describe(model: Model) -> tuple[InstanceInfo, ...]:
    """One entry per item; instance ids count from 0."""
    return tuple(
        InstanceInfo(i, p.item.label, p.item.category, model.groups[i], p.boxes()) for i, p in enumerate(model.items)
    )


def sample_model(model: Model, target: int, rng: np.random.Generator) -> Samples:
    """About `target` surface points that are not hidden for good, denser on furniture and on small things."""
    soup = Soup.build(list(model.patches))
    detail = np.array([_detail(model.items[i].item) for i in model.part_items])[model.patch_parts]
    trial = sample(soup, _spacing(soup, detail, 4_000), generator(model.seed, "trial"))
    share = 1 - hidden(model, trial).mean()
    samples = sample(soup, _spacing(soup, detail, round(target / share)), rng)
    keep = ~hidden(model, samples)
    return Samples(**{key: value[keep] for key, value in vars(samples).items()})


def scan_samples(model: Model, target: int, style: ScanStyle, rng: np.random.Generator, boxes: F64) -> Samples:
    """About `target` evenly spaced surface points that a scan's frames have seen; boxes [S, 8]: the furniture's."""
    soup = Soup.build(list(model.patches))
    even = np.ones(len(model.patches))
    gloss = np.array([part.gloss for thing in model.items for part in thing.item.parts])
    dark = (gloss > 0) & (generator(model.seed, "glossy").random(len(gloss)) < style.glossy)
    back = np.linalg.inv(model.world).astype(np.float64)

    def seen(samples: Samples) -> NDArray[np.bool_]:
        weights = np.ones(len(samples.point))
        surface = Surface(_apply(back, samples.point), samples.normal @ back[:3, :3].T, weights)
        walk = generator(model.seed, "walk")
        found = seen_by_frames(walk, model.plan, _turned(back, boxes), surface, style)
        return found & ~hidden(model, samples) & ~dark[model.patch_parts[samples.patch]]

    trial = sample(soup, _spacing(soup, even, 6_000), generator(model.seed, "trial"))
    share = max(0.05, float(seen(trial).mean()))
    samples = sample(soup, _spacing(soup, even, round(target / share)), rng)
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


def _spacing(soup: Soup, detail: F64, target: int) -> F64:
    """Sample distance [P] per patch, in proportion to `detail` [P], that gives about `target` points."""
    spacing = 0.05
    for _ in range(6):
        n = count_samples(soup, spacing * detail)
        if abs(n - target) < 0.01 * target:
            break
        spacing *= float(np.clip(np.sqrt(n / target), 0.2, 4.0))
    return spacing * detail


def _detail(item: Item) -> float:
    return STRUCTURE_DETAIL if item.category in STRUCTURE else item.detail


def part_slices(model: Model, samples: Samples) -> list[tuple[int, slice]]:
    """(part, rows) for every part that has samples; samples lie in the order of the parts."""
    part = model.patch_parts[samples.patch]
    bounds = np.searchsorted(part, np.arange(len(model.part_names) + 1))
    return [(i, slice(int(a), int(b))) for i, (a, b) in enumerate(pairwise(bounds)) if b > a]


def surface_colors(model: Model, samples: Samples) -> F64:
    """Shaded colours [K, 3] of surface samples."""
    albedo, gloss = np.empty_like(samples.point), np.zeros(len(samples.point))
    uv = samples.uv + 0.37 * samples.patch[:, None]  # the same pattern does not start anew on every face
    parts = [part for thing in model.items for part in thing.item.parts]
    for i, rows in part_slices(model, samples):
        albedo[rows] = parts[i].texture.albedo(uv[rows], samples.unit[rows])
        gloss[rows] = parts[i].gloss
    return shade(samples.point, samples.normal, samples.step.prod(1), albedo, gloss, model.lighting)


def hidden(model: Model, samples: Samples) -> NDArray[np.bool_]:
    """Samples [K] that look straight into a closed box and so can never be seen: the floor below a chest, a chest's
    front behind its doors. No capture would have Gaussians there.

    A sample counts as covered if the point a little above it lies inside a box; walls and floor allow for the gap that
    furniture keeps. Boxes of other members of the sample's own assembly do not count: a sink hangs in its cabinet.
    """
    owner = np.array(model.part_items)[model.patch_parts[samples.patch]]
    category = [p.item.category for p in model.items]
    gap = np.array([WALL_GAP if c in STRUCTURE else CONTACT_GAP for c in category])[owner]
    above = samples.point + gap[:, None] * samples.normal
    order = np.argsort(above[:, 0], kind="stable")
    x, y, z = np.ascontiguousarray(above[order].T)
    item, group = owner[order], np.array(model.groups)[owner[order]]
    covered = np.zeros(len(owner), dtype=bool)
    for i, placed in enumerate(model.items):
        for bx, by, hx, hy, c, s, z0, z1 in oriented(placed.item.closed_boxes, placed.position, placed.yaw):
            reach = np.hypot(hx, hy)
            near = slice(*np.searchsorted(x, (bx - reach, bx + reach)))
            dx, dy = x[near] - bx, y[near] - by
            inside = (np.abs(c * dx + s * dy) < hx) & (np.abs(c * dy - s * dx) < hy)
            inside &= (z[near] > z0) & (z[near] < z1)
            covered[near] |= inside & ((item[near] == i) | (group[near] != model.groups[i]))
    out = np.empty_like(covered)
    out[order] = covered
    return out


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
