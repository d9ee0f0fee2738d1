"""GAGS's prompt density: as many point prompts per unit of surface from afar as from close by.

After GAGS (Peng et al., AAAI 2026; depth_SAM.py and utils/SAM_utils.py of its code). With a regular grid a surface far
from the camera gets few prompts and only coarse masks, and its masks disagree with those of a closer view. Here each
patch of a picture gets n^2 prompts with

    n = clip(floor(4 r), 1, 20),   r = depth now / closest depth from which the same surface was ever seen.

Two things differ from that code. Both depths are those of the Gaussians themselves, over one set of visible ones:
there the sets differ, r falls just below 1 in the closest view itself, and the count collapses from 16 prompts to 1.
And prompts of a patch are distinct pixels drawn with a generator of their own, so that a picture's prompts depend on
(seed, picture) alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet
from chorus_common.runtime.errors import ConfigError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Patches per side of a picture, prompts per side of a patch at r = 1 and at most, sub-cells per side of a patch.
PATCHES, PROMPTS, MOST, SUBCELLS = 8, 4, 20, 10

#: A Gaussian is visible where its own depth and the rendered one differ by less than this share.
TOLERANCE = 0.25


@dataclass(frozen=True, eq=False)
class VisibleSurface:
    """The M Gaussians whose centres a view of height x width pixels shows.

    pixels [M]: the flat pixel each lies on.
    now [M], closest [M]: metres from this camera plane, and from the closest one that ever saw it (closest <= now).
    """

    height: int
    width: int
    pixels: I64
    now: F64
    closest: F64


def visible_gaussians(means: F32, viewmat: F64, intrinsics: F64, depth: F32) -> tuple[I64, I64, F64]:
    """Gaussians (index [M]) whose centre is visible in a view, the flat pixel [M] each lies on, its own depth [M].

    Args:
        means: [N, 3] metres.
        viewmat: [4, 4] world to camera.
        intrinsics: [3, 3] pixels.
        depth: [H, W] rendered depth in metres, 0 where nothing is.
    """
    height, width = depth.shape
    camera = means.astype(np.float64) @ viewmat[:3, :3].T + viewmat[:3, 3]
    in_front = np.flatnonzero(camera[:, 2] > 0)
    x, y, z = camera[in_front].T
    u = np.floor(intrinsics[0, 0] * x / z + intrinsics[0, 2])
    v = np.floor(intrinsics[1, 1] * y / z + intrinsics[1, 2])
    framed = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    in_front, z = in_front[framed], z[framed]
    pixels = (v[framed] * width + u[framed]).astype(np.int64)
    here = depth.reshape(-1)[pixels]
    seen = (here > 0) & (np.abs(here - z) <= TOLERANCE * here)
    return in_front[seen], pixels[seen], z[seen]


def closest_depths(means: F32, cameras: CameraSet, depths: Iterable[F32]) -> F64:
    """Smallest depth [N] (metres) at which each Gaussian is visible in any view; inf where in none.

    Args:
        means: [N, 3] metres.
        cameras: V views.
        depths: their rendered depths [H, W] in metres, 0 where nothing is, one after the other.
    """
    closest = np.full(len(means), np.inf)
    for viewmat, intrinsics, depth in zip(cameras.viewmats, cameras.intrinsics, depths, strict=True):
        if depth.shape != (cameras.height, cameras.width):
            raise ConfigError(f"a depth picture has shape {depth.shape}, the cameras {(cameras.height, cameras.width)}")
        gaussians, _, z = visible_gaussians(means, viewmat, intrinsics, depth)
        closest[gaussians] = np.minimum(closest[gaussians], z)
    return closest


def visible_surface(means: F32, closest: F64, viewmat: F64, intrinsics: F64, depth: F32) -> VisibleSurface:
    """What a view shows, with `closest_depths` over all views; arguments as `visible_gaussians`."""
    gaussians, pixels, z = visible_gaussians(means, viewmat, intrinsics, depth)
    return VisibleSurface(depth.shape[0], depth.shape[1], pixels, z, np.minimum(closest[gaussians], z))


def prompts_per_side(surface: VisibleSurface) -> I64:
    """n of the module's docstring for each patch [8, 8]; 1 where no Gaussian of the patch is visible."""
    patch = patch_of_pixels(surface.height, surface.width).reshape(-1)[surface.pixels]
    now = np.bincount(patch, weights=surface.now, minlength=PATCHES**2)
    ever = np.bincount(patch, weights=surface.closest, minlength=PATCHES**2)
    ratio = np.divide(now, ever, out=np.zeros(PATCHES**2), where=ever > 0)
    n = np.floor(PROMPTS * ratio + 1e-6)  # the closest view has r = 1 up to rounding, and must get all of its prompts
    return np.clip(n, 1, MOST).astype(np.int64).reshape(PATCHES, PATCHES)


def draw_prompts(surface: VisibleSurface, seed: int) -> F64:
    """Point prompts [P, 2] (x, y: pixel centres) of one view, patch by patch; `seed` is the (scene, view) pair's own.

    Within a patch, pixels are drawn without replacement, each in proportion to the visible Gaussians of its sub-cell (a
    hundredth of the patch), evenly where there are none.
    """
    height, width, pixels = surface.height, surface.width, surface.pixels
    patch = patch_of_pixels(height, width)
    counts = prompts_per_side(surface).reshape(-1)
    subcell = subcell_of_pixels(height, width)
    n_subcells = int(subcell.max()) + 1
    density = np.bincount(subcell.reshape(-1)[pixels], minlength=n_subcells) / np.maximum(
        np.bincount(subcell.reshape(-1), minlength=n_subcells), 1
    )
    weight = density[subcell]
    points = []
    for k in np.unique(patch):
        y, x = np.nonzero(patch == k)
        p: F64 = weight[y, x] if weight[y, x].any() else np.ones(len(y))
        n = min(int(counts[k]) ** 2, int(np.count_nonzero(p)))
        drawn = np.random.default_rng([seed, int(k)]).choice(len(p), size=n, replace=False, p=p / p.sum())
        points.append(np.stack([x[drawn], y[drawn]], axis=1) + 0.5)
    return np.concatenate(points)


def patch_of_pixels(height: int, width: int) -> I64:
    """Patch index [H, W] of each pixel; patches cover the whole picture and differ by at most a pixel in size."""
    rows = np.arange(height) * PATCHES // height
    cols = np.arange(width) * PATCHES // width
    return rows[:, None] * PATCHES + cols[None]


def subcell_of_pixels(height: int, width: int) -> I64:
    """Sub-cell index [H, W] of each pixel, 10 x 10 in every patch."""
    across = PATCHES * SUBCELLS
    rows = np.arange(height) * across // height
    cols = np.arange(width) * across // width
    return rows[:, None] * across + cols[None]
