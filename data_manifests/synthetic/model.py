"""A furnished room as surfaces: drawn from a seed, sampled as points, coloured by its light."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from chorus_common.labels import SCANNET20
from data_manifests.synthetic.item import Item, Placed, oriented
from data_manifests.synthetic.layout import RoomLayout
from data_manifests.synthetic.light import Lighting, draw_lighting, shade
from data_manifests.synthetic.options import DOMAINS, RoomOptions
from data_manifests.synthetic.plan import Plan, draw_plan, structure
from data_manifests.synthetic.recipes import RECIPES
from data_manifests.synthetic.sampling import Samples, Soup, count_samples, sample
from data_manifests.synthetic.shapes import Patch

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
    lighting = draw_lighting(rng, apply(world, lamps), apply(world, windows), style.exposure, style.cast)
    items = tuple(Placed(p.item, apply(world, p.position[None])[0], p.yaw + yaw) for p in placed)
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


def apply(world: F64, points: F64) -> F64:
    return points @ world[:3, :3].T + world[:3, 3]


def turned_boxes(pose: F64, boxes: F64) -> F64:
    """Oriented boxes [S, 8] after a turn about z and a shift, `pose` [4, 4]."""
    out = boxes.copy()
    out[:, :2] = boxes[:, :2] @ pose[:2, :2].T + pose[:2, 3]
    out[:, 4:6] = boxes[:, 4:6] @ pose[:2, :2].T
    return out


def sample_model(model: Model, target: int, rng: np.random.Generator) -> Samples:
    """About `target` surface points that are not hidden for good, denser on furniture and on small things."""
    soup = Soup.build(list(model.patches))
    detail = np.array([_detail(model.items[i].item) for i in model.part_items])[model.patch_parts]
    trial = sample(soup, spacing_for(soup, detail, 4_000), generator(model.seed, "trial"))
    share = 1 - hidden(model, trial).mean()
    samples = sample(soup, spacing_for(soup, detail, round(target / share)), rng)
    keep = ~hidden(model, samples)
    return Samples(**{key: value[keep] for key, value in vars(samples).items()})


def spacing_for(soup: Soup, detail: F64, target: int) -> F64:
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
