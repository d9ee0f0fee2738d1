"""`embedded:dense`: a classical dense descriptor of colour, shape and texture, the generalist that needs no download.

Per cell, 80 channels: oriented gradients at three scales over two windows (HOG, Dalal & Triggs 2005, with DAISY's idea
of a second, wider ring, Tola et al. 2010), Lab colour statistics, uniform rotation-invariant local binary patterns
(Ojala et al. 2002), difference-of-Gaussian-like band energies and chroma edge energies. No channel knows where in the
picture its cell lies.

All pooling is a product with small sparse matrices: deterministic, single-threaded, and right for any picture size and
cell size (partial cells, pyramid levels whose pixels straddle cells).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.lifting import CellGrid
from stage1_render_teachers.teachers.protocol import F32, U8, fingerprint_of

ORIENTATIONS = 8
SCALES = 3
OCTAVES = 4
LBP_CODES = 10
CHANNELS = 2 * ORIENTATIONS * SCALES + 12 + LBP_CODES + OCTAVES + 2 * SCALES

#: Weights of the groups, chosen so that shape, colour and texture carry comparable variance on rendered rooms: the
#: standardisation downstream is a rotation times one scalar and keeps whatever balance it is given.
GRADIENT_WEIGHT, COLOUR_WEIGHT, LBP_WEIGHT, ENERGY_WEIGHT = 1.0, 1.2, 1.5, 1.8

VERSION = 1


class ClassicalDenseTeacher:
    """See the module's docstring. Stateless; a 320x240 picture takes about 10 ms on one core."""

    spec = "embedded:dense"
    fingerprint = fingerprint_of(spec, VERSION, GRADIENT_WEIGHT, COLOUR_WEIGHT, LBP_WEIGHT, ENERGY_WEIGHT)
    channels = CHANNELS
    text_aligned = False

    def features(self, images: U8, grid: CellGrid) -> F32:
        """Features [B, rows, cols, 80] f32 of pictures [B, H, W, 3] u8."""
        out = np.empty((len(images), grid.rows, grid.cols, CHANNELS), dtype=np.float32)
        for row, image in zip(out, images):
            row[...] = describe(image, grid)
        return out


def describe(image: U8, grid: CellGrid) -> F32:
    """Features [rows, cols, 80] f32 of one picture [H, W, 3] u8."""
    lab = srgb_to_lab(image) / np.float32(100)
    pyramid = [lab]
    for _ in range(OCTAVES - 1):
        pyramid.append(halve(pyramid[-1]))

    gradients, chroma = [], []
    for level in pyramid[:SCALES]:
        maps = np.concatenate([oriented_gradients(level[..., 0]), chroma_edges(level)], axis=-1)
        for reach in (1.0, 3.0):
            pooled = pool(maps, grid, reach)
            gradients.append(normalised_histogram(pooled[..., :ORIENTATIONS]))
            chroma.append(pooled[..., ORIENTATIONS:])
    bands = [pool(band_energy(level[..., 0]), grid, reach=1.0) for level in pyramid]

    mean, spread = colour_statistics(lab, grid, reach=1.0)
    wide_mean, wide_spread = colour_statistics(lab, grid, reach=3.0)
    patterns = pool(np.eye(LBP_CODES, dtype=np.float32)[uniform_lbp(lab[..., 0])], grid, reach=1.5)
    return np.concatenate(
        [
            GRADIENT_WEIGHT * np.concatenate(gradients, axis=-1),
            COLOUR_WEIGHT * np.concatenate([mean, wide_mean, 2 * spread, 2 * wide_spread], axis=-1),
            LBP_WEIGHT * np.sqrt(patterns),
            ENERGY_WEIGHT * np.sqrt(np.concatenate([*bands, *chroma], axis=-1)),
        ],
        axis=-1,
        dtype=np.float32,
    )


_LINEAR = np.arange(256) / 255
_LINEAR = np.where(_LINEAR <= 0.04045, _LINEAR / 12.92, ((_LINEAR + 0.055) / 1.055) ** 2.4).astype(np.float32)
#: sRGB primaries to XYZ divided by the D65 white point (IEC 61966-2-1), rows X, Y, Z.
_RGB_TO_XYZ = (
    np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    / np.array([[0.95047], [1.0], [1.08883]])
).astype(np.float32)


def srgb_to_lab(image: U8) -> F32:
    """CIE Lab [H, W, 3] f32 (L in 0..100) of sRGB [H, W, 3] u8, D65 white."""
    r, g, b = (_LINEAR[image[..., channel]] for channel in range(3))
    fx, fy, fz = (_lab_curve(m[0] * r + m[1] * g + m[2] * b) for m in _RGB_TO_XYZ)
    return np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], axis=-1)


def _lab_curve(t: F32) -> F32:
    return np.where(t > np.float32(0.008856), np.cbrt(t), np.float32(7.787) * t + np.float32(16 / 116))


def halve(image: F32) -> F32:
    """Mean of 2x2 pixels, [H, W, C] -> [ceil(H/2), ceil(W/2), C]; odd borders are repeated."""
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.float32(0.25) * (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2])


def central_differences(image: F32) -> tuple[F32, F32]:
    """d/dx and d/dy of [H, W], central, one-sided steps of half weight at the border."""
    padded = np.pad(image, 1, mode="edge")
    half = np.float32(0.5)
    return half * (padded[1:-1, 2:] - padded[1:-1, :-2]), half * (padded[2:, 1:-1] - padded[:-2, 1:-1])


def oriented_gradients(lightness: F32) -> F32:
    """Gradient magnitude shared among 8 unsigned orientations, [H, W] -> [H, W, 8].

    Bin k answers m * max(0, cos(2 (theta - theta_k)))^2: smooth in theta, no arctangent, and twice the angle makes
    opposite gradients (light on dark, dark on light) alike.
    """
    dx, dy = central_differences(lightness)
    magnitude = np.sqrt(dx * dx + dy * dy)
    safe = np.maximum(magnitude, np.float32(1e-12))
    cos2, sin2 = (dx * dx - dy * dy) / safe, 2 * dx * dy / safe  # m cos(2 theta), m sin(2 theta)
    angles = 2 * np.pi * np.arange(ORIENTATIONS) / ORIENTATIONS
    out = np.empty((*lightness.shape, ORIENTATIONS), dtype=np.float32)
    for k, angle in enumerate(angles):
        answer = np.maximum(np.float32(np.cos(angle)) * cos2 + np.float32(np.sin(angle)) * sin2, 0)
        out[..., k] = answer * answer / safe
    return out


def chroma_edges(lab: F32) -> F32:
    """Gradient magnitude of the chroma plane (a, b), [H, W, 3] -> [H, W, 1]: edges that lightness does not show."""
    ax, ay = central_differences(lab[..., 1])
    bx, by = central_differences(lab[..., 2])
    return np.sqrt(ax * ax + ay * ay + bx * bx + by * by)[..., None]


def band_energy(lightness: F32) -> F32:
    """|image - its 3x3 mean|, [H, W] -> [H, W, 1]: the energy of one octave when taken on a pyramid level."""
    padded = np.pad(lightness, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    mean = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / np.float32(9)
    return np.abs(lightness - mean)[..., None]


def normalised_histogram(histogram: F32) -> F32:
    """Square root of the L1-normalised histogram [..., K] (Hellinger), damped where there is no gradient to speak of.

    0.02 is two grey levels of 100: below it gradients are noise and should not be blown up to unit length.
    """
    return np.sqrt(histogram / (histogram.sum(axis=-1, keepdims=True) + np.float32(0.02)))


def colour_statistics(lab: F32, grid: CellGrid, reach: float) -> tuple[F32, F32]:
    """Mean and standard deviation of Lab (in hundredths) per cell, each [rows, cols, 3].

    Variances are lowered by 1e-6 (a tenth of a just visible step, squared): less than that is float32 rounding.
    """
    moments = pool(np.concatenate([lab, lab * lab], axis=-1), grid, reach)
    mean, square = moments[..., :3], moments[..., 3:]
    return mean, np.sqrt(np.maximum(square - mean * mean - np.float32(1e-6), 0))


def uniform_lbp(lightness: F32) -> NDArray[np.uint8]:
    """Uniform rotation-invariant local binary pattern of the 8 neighbours, [H, W] -> codes 0..9 (9 = not uniform).

    A neighbour counts as brighter only when it is brighter by a quarter grey level: rendered walls are flat up to
    rounding, and a pattern of rounding noise says nothing.
    """
    padded = np.pad(lightness, 1, mode="edge")
    height, width = lightness.shape
    threshold = lightness + np.float32(0.0025)
    code = np.zeros(lightness.shape, dtype=np.uint8)
    for bit, (dy, dx) in enumerate([(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]):
        code |= (padded[dy : dy + height, dx : dx + width] > threshold).view(np.uint8) << np.uint8(bit)
    return _UNIFORM[code]


def _uniform_table() -> NDArray[np.uint8]:
    table = np.empty(256, dtype=np.uint8)
    for code in range(256):
        bits = [(code >> i) & 1 for i in range(8)]
        changes = sum(bits[i] != bits[i - 1] for i in range(8))
        table[code] = sum(bits) if changes <= 2 else LBP_CODES - 1
    return table


_UNIFORM = _uniform_table()


def pool(maps: F32, grid: CellGrid, reach: float) -> F32:
    """Weighted mean of `maps` [h, w, C] around every cell, [rows, cols, C].

    `maps` may be any pyramid level of the picture. The window is a triangle of half-width (reach + 1) / 2 cells for
    reach > 1, the cell itself for reach = 1.
    """
    height, width, channels = maps.shape
    down = window_matrix(height, grid.rows, grid.height / grid.cell, reach)
    across = window_matrix(width, grid.cols, grid.width / grid.cell, reach)
    rows = (down @ maps.reshape(height, width * channels)).reshape(grid.rows, width, channels)
    columns = rows.transpose(1, 0, 2).reshape(width, grid.rows * channels)  # [w, rows*C]
    return (across @ columns).reshape(grid.cols, grid.rows, channels).transpose(1, 0, 2)


@lru_cache(maxsize=64)
def window_matrix(pixels: int, cells: int, cells_in_picture: float, reach: float) -> sparse.csr_matrix:
    """Row-normalised weights [cells, pixels] of the pixels of one axis in the window of each cell.

    `cells_in_picture` is the picture's extent in cells (not an integer where the last cell is partial). With reach = 1
    a pixel that straddles cells is shared by area.
    """
    edges = np.arange(pixels + 1) * (cells_in_picture / pixels)  # pixel borders, in cells
    cell = np.arange(cells)[:, None]
    if reach == 1:
        overlap = np.minimum(edges[None, 1:], cell + 1) - np.maximum(edges[None, :-1], cell)
        weights = np.maximum(overlap, 0)
    else:
        centres = (edges[1:] + edges[:-1]) / 2
        half_width = max((reach + 1) / 2, edges[1])  # a coarse pyramid level still reaches a pixel
        weights = np.maximum(0, 1 - np.abs(centres[None] - (cell + 0.5)) / half_width)
    return sparse.csr_matrix((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))
