"""What the teachers look at: renders, or photographs from the same poses.

The lifting matrix comes from the Gaussians either way. Where a photograph does not know a pixel (beyond its lens, or
its edge) the cell's weight shrinks with the share of known pixels. Where photograph and render disagree, because
something was moved or badly reconstructed, it may shrink further:

    weight = (share of known pixels) x exp(-d / tau)

with d the mean absolute difference of colours (0 to 1, over channels and known pixels of the cell) after the photograph
was divided by its exposure: per channel the median of photograph / render over known pixels, which nearly half of the
picture may contradict. tau is the setting `photo_agreement`; 0 leaves the factor out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chorus_common.cameras import CameraSet
from chorus_common.captures.photographs import Photographs, read_photographs
from chorus_common.lifting import CellGrid, CellHits
from chorus_common.manifest import ManifestRow
from chorus_common.runtime.errors import SceneError, one_line
from stage1_render_teachers.settings import Stage1Config
from stage1_render_teachers.views.render_views import ViewBatch, config_grid

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]

#: Render darker than this says nothing about exposure, nor does one that is empty.
DARK = 0.02
#: Exposure is believed within these bounds.
GAIN = (0.25, 4.0)


@dataclass(frozen=True, eq=False)
class TakenPictures:
    """Photographs of V views at the configured size: images [V, H, W, 3] u8, known [V, H, W]. note: what was left out,
    a line, "" where nothing was.
    """

    images: U8
    known: Bool
    note: str = ""


def photographs_of(row: ManifestRow, config: Stage1Config) -> Photographs | None:
    """The photographs of a scene, None where the teachers look at renders. Raises SceneError where there are none."""
    if config.pictures == "renders":
        return None
    if row.cameras_path is None:
        raise SceneError(
            f'scene {row.scene_id}: brings no cameras; photographs need poses, or take pictures = "renders"'
        )
    return read_photographs(row.cameras_path, config.photo_folder)


def photographed(photographs: Photographs | None, cameras: CameraSet | None) -> tuple[CameraSet | None, str]:
    """The views of `cameras` that have a photograph (all, without photographs), and a line that counts the others.

    Raises SceneError where none has one.
    """
    if photographs is None or cameras is None:
        return cameras, ""
    kept = [view for view, name in enumerate(cameras.names) if name in photographs.paths]
    absent = [name for name in cameras.names if name not in photographs.paths]
    note = f"{len(absent)} of {len(cameras)} views have no photograph (first: {absent[0]})" if absent else ""
    if not kept:
        raise SceneError(note)
    return cameras.select(kept), note


def take_pictures(photographs: Photographs | None, cameras: CameraSet) -> tuple[CameraSet, TakenPictures | None]:
    """The views of `cameras` whose photograph can be read, and their photographs, at the cameras' size; without
    photographs all views and None.

    What cannot be read is left out and counted. Raises SceneError where nothing is left.
    """
    if photographs is None:
        return cameras, None
    images, known, kept, problems = list[U8](), list[Bool](), list[int](), list[str]()
    for view, name in enumerate(cameras.names):
        try:
            color, there = photographs.picture(name, cameras.intrinsics[view], cameras.width, cameras.height)
        except SceneError as error:
            problems.append(one_line(error))
            continue
        images.append(np.clip(np.rint(color * 255), 0, 255).astype(np.uint8))
        known.append(there)
        kept.append(view)
    note = f"{len(problems)} of {len(cameras)} photographs are left out: {problems[0]}" if problems else ""
    if not kept:
        raise SceneError(note)
    return cameras.select(kept), TakenPictures(np.stack(images), np.stack(known), note)


def with_pictures(
    batches: Iterator[ViewBatch], taken: TakenPictures | None, config: Stage1Config
) -> Iterator[ViewBatch]:
    """The rendered batches, with photographs in place of the renders and cells weighted by how well they agree."""
    if taken is None:
        yield from batches
        return
    grid = config_grid(config)
    for batch in batches:
        images = taken.images[batch.views.start : batch.views.stop]
        hits = []
        for view, rendered, photo, found in zip(batch.views, batch.images, images, batch.hits):
            weights = cell_weights(photo, rendered, taken.known[view], grid, config.photo_agreement)
            hits.append(scaled_hits(found, weights))
        yield replace(batch, images=images, hits=hits)


def cell_weights(photo: U8, rendered: U8, known: Bool, grid: CellGrid, tau: float) -> F32:
    """Weight [cells] in 0..1 of each cell by the rule at the head of this file.

    photo, rendered: [H, W, 3]; known: [H, W]; tau: 0 = only the share of known pixels counts.
    """
    cell = (np.arange(grid.height) // grid.cell)[:, None] * grid.cols + np.arange(grid.width) // grid.cell
    flat, there = cell.ravel(), known.ravel()
    pixels = np.bincount(flat, minlength=grid.cells)
    count = np.bincount(flat, weights=there, minlength=grid.cells)
    share = (count / pixels).astype(np.float32)
    if tau == 0:
        return share
    seen, drawn = (np.asarray(picture, np.float32) / np.float32(255) for picture in (photo, rendered))
    difference = np.abs(seen / exposure(seen, drawn, known) - drawn).mean(axis=2)
    mean = np.bincount(flat, weights=difference.ravel() * there, minlength=grid.cells) / np.maximum(count, 1)
    return (share * np.exp(-mean / tau)).astype(np.float32)


def exposure(photo: F32, rendered: F32, known: Bool) -> F32:
    """Gain [3] of the photograph over the render [H, W, 3]: the median of their ratios where both show something."""
    gain = np.ones(3, np.float32)
    for channel in range(3):
        lit = known & (rendered[..., channel] > DARK)
        if lit.any():
            gain[channel] = np.median(photo[lit, channel] / rendered[lit, channel])
    return np.clip(gain, *GAIN)


def scaled_hits(hits: CellHits, weights: F32) -> CellHits:
    """`hits` with every cell's blending weights multiplied by its own [cells]; entries that become 0 are left out."""
    if (weights == 1).all():
        return hits
    scaled = hits.weights * weights[hits.cells]
    keep = scaled > 0
    return CellHits(hits.cells[keep], hits.gaussian_ids[keep], scaled[keep])
