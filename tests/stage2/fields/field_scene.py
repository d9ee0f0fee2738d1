"""A tiny scene with masks at three granularities, in memory and as a cache on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chorus_common.cache import EmbeddingSource, SceneCacheWriter, SceneHeader
from chorus_common.cache.schema import GridAttributes, MaskTeacherAttributes
from chorus_common.features.standardise import Moments, PhiSStandardiser, phi_s
from chorus_common.lifting import CellGrid, LiftingIndex
from chorus_common.text import EMBEDDED_TEXT_SPEC, load_text_encoder
from tests.evaluation.rooms import GRID, make_cameras, make_index, make_scene

LEVELS = ("whole", "part", "subpart")
WIDTH = 64


@dataclass(frozen=True, eq=False)
class FakeMasks:
    """What `stage2_distill.fields.regions.FieldStore` asks for."""

    index: LiftingIndex
    ids: dict[str, np.ndarray]
    offsets: dict[str, np.ndarray]
    embeddings: dict[str, np.ndarray]

    @property
    def mask_teachers(self) -> dict[str, MaskTeacherAttributes]:
        _, height, width = self.ids["whole"].shape
        shapes = {level: e.shape for level, e in self.embeddings.items()}
        return {
            "masks": MaskTeacherAttributes(
                spec="made-up", fingerprint="", levels=LEVELS, height=height, width=width, embeddings=shapes
            )
        }

    def lifting(self, rows: Any = None) -> LiftingIndex:
        return self.index

    def masks(self, name: str, level: str, views: Any = None) -> np.ndarray:
        return self.ids[level]

    def mask_embeddings(self, name: str, level: str) -> tuple[np.ndarray, np.ndarray]:
        return self.offsets[level], self.embeddings[level]


def make_masks(index: LiftingIndex, seed: int = 0, *, words: np.ndarray | None = None) -> FakeMasks:
    """Random blocks as masks: 1 x 2, 3 x 4 and 6 x 8 per view; the embeddings of `part` are the same in all views.

    words [12, E]: what the 12 parts say; unit rows of their own without it.
    """
    rng = np.random.default_rng(seed)
    views, grid = index.n_views, index.grid
    ids, offsets, embeddings = {}, {}, {}
    told = unit(rng.standard_normal((12, WIDTH))) if words is None else words
    for level, (down, across) in zip(LEVELS, ((1, 2), (3, 4), (6, 8))):
        rows, cols = np.arange(grid.height) * down // grid.height, np.arange(grid.width) * across // grid.width
        picture = (rows[:, None] * across + cols).astype(np.int32)
        ids[level] = np.repeat(picture[None], views, axis=0)
        n = down * across
        offsets[level] = np.arange(views + 1, dtype=np.int64) * n
        table = unit(rng.standard_normal((views * n, told.shape[1])))
        embeddings[level] = np.tile(told, (views, 1)) if level == "part" else table
    return FakeMasks(index, ids, offsets, {k: v.astype(np.float32) for k, v in embeddings.items()})


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def make_field_index(seed: int = 0, n: int = 300) -> LiftingIndex:
    return make_index(make_scene(seed, n), make_cameras())


def write_cache(root: Path, seed: int = 0, n: int = 300) -> Path:
    """A cache with masks, their embeddings and the text-aligned teacher they come from; returns its path."""
    scene, cameras = make_scene(seed, n), make_cameras()
    index = make_index(scene, cameras)
    encoder = load_text_encoder(EMBEDDED_TEXT_SPEC)
    names = ["floor", "wall", "chair", "table", "sofa", "bed", "desk", "door", "window", "sink", "toilet", "curtain"]
    masks = make_masks(index, seed, words=encoder.encode(names))
    tokens = unit(np.random.default_rng(seed).standard_normal((index.n_columns, encoder.channels)))
    standardiser: PhiSStandardiser = phi_s(
        Moments.of(tokens), spec=EMBEDDED_TEXT_SPEC, teacher_fingerprint=encoder.pair
    )
    standardiser.save(root / "standardisers" / "text.safetensors")
    grid: CellGrid = GRID
    header = SceneHeader(
        scene_id="room", fingerprint=f"made-up-{seed}", dataset="toy",
        grid=GridAttributes(width=grid.width, height=grid.height, cell=grid.cell),
    )  # fmt: skip
    path = root / "toy" / "room.zarr"
    with SceneCacheWriter(path, header) as writer:
        writer.put_gaussians(scene, index.order)
        writer.put_cameras(cameras)
        writer.put_lifting(index)
        writer.put_visibility(*index.visibility())
        dense = writer.add_dense_teacher(
            "text", spec=EMBEDDED_TEXT_SPEC, fingerprint=encoder.pair, channels=encoder.channels,
            standardiser=standardiser.fingerprint, bits="fp16", text_aligned=True,
        )  # fmt: skip
        dense.append(standardiser.forward(tokens).reshape(index.n_views, grid.rows, grid.cols, -1))
        source = EmbeddingSource(spec=EMBEDDED_TEXT_SPEC, fingerprint=encoder.pair, form="pooled")
        writer_of_masks = writer.add_mask_teacher(
            "masks", spec="made-up", fingerprint="", levels=LEVELS, height=grid.height, width=grid.width,
            embedded_by=source,
        )  # fmt: skip
        writer_of_masks.append(masks.ids)
        for level in LEVELS:
            writer_of_masks.put_embeddings(level, masks.offsets[level], masks.embeddings[level])
        writer.publish()
    return path
