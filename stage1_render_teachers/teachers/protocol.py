"""What a 2D teacher is: something frozen that looks at rendered pictures and says something about every cell or pixel.

A teacher sees pixels only: no depth, no labels, no scene. Geometry may say where a mask teacher puts its prompts, never
what it answers. A teacher must be a pure function of its inputs (and of `seed` where it draws at random), because the
cache promises the same bytes whatever the number of workers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from chorus_common.lifting import CellGrid
from stage1_render_teachers.teachers.prompt_density import VisibleSurface

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
AskSurface = Callable[[], VisibleSurface]


@runtime_checkable
class DenseTeacher(Protocol):
    """One vector per cell of the shared grid.

    Attributes:
        spec: the string that builds it, e.g. "open_clip:ViT-B-16:laion2b_s34b_b88k".
        fingerprint: hash of its weights and of every setting that changes a number.
        channels: C.
        text_aligned: whether `chorus_common.text.load_text_encoder(spec)` shares its space.
    """

    spec: str
    fingerprint: str
    channels: int
    text_aligned: bool

    def features(self, images: U8, grid: CellGrid) -> F32:
        """Features [B, rows, cols, C] f32 of pictures [B, H, W, 3] u8 (sRGB) on `grid`."""
        ...


@runtime_checkable
class PictureTeacher(DenseTeacher, Protocol):
    """A dense teacher that also makes one vector of a whole picture, in the space of its tokens."""

    @property
    def picture_size(self) -> int:
        """Side S in pixels of the square pictures it was trained on."""
        ...

    def picture_embeddings(self, pictures: U8) -> F32:
        """Unit vectors [M, channels] f32 of pictures [M, S, S, 3] u8."""
        ...


@runtime_checkable
class MaskTeacher(Protocol):
    """Masks of pictures at several granularities, named from coarse to fine in `levels`."""

    spec: str
    fingerprint: str
    levels: tuple[str, ...]

    def masks_of_views(self, images: U8, seeds: Sequence[int], surfaces: Sequence[AskSurface]) -> list[dict[str, I32]]:
        """Per picture of [B, H, W, 3] u8: level -> ids [H, W] i32; ids are 0..M-1, -1 = no mask here.

        seeds [B]: each picture's own. surfaces [B]: what the geometry says about each picture's surfaces, for teachers
        that place prompts by it; computed when it is asked for.
        """
        ...


Teacher = DenseTeacher | MaskTeacher


def split_name(given: str) -> tuple[str, str]:
    """A teacher as a user gives it, NAME=SPEC or SPEC alone: its name in files ("" where none is given) and its spec.

    >>> split_name("lang=open_clip:ViT-B-16:tag=/weights/b16.safetensors")
    ('lang', 'open_clip:ViT-B-16:tag=/weights/b16.safetensors')
    >>> split_name("embedded:text")
    ('', 'embedded:text')
    """
    found = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=(.+)", given)
    return (found[1], found[2]) if found else ("", given)


def teacher_name(given: str) -> str:
    """The name a teacher has in files: the one that is given (`split_name`), or else its spec with runs of anything but
    letters, digits and dots turned into "-".

    Long ones (weights deep in a hub's snapshots) keep their beginning, and a hash stands for the rest.
    """
    own, spec = split_name(given)
    if own:
        return own
    name = re.sub(r"[^A-Za-z0-9.]+", "-", spec).strip("-.")
    return name if len(name) <= 96 else f"{name[:80].rstrip('-.')}-{fingerprint_of(spec)}"


def fingerprint_of(*parts: object) -> str:
    """Hash of a teacher's settings: 16 hex digits of SHA-256 over their repr."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()[:16]
