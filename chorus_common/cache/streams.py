"""Append to a store's arrays: pictures, a dense teacher's features per view or per Gaussian, a mask teacher's ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.cache import schema
from chorus_common.cache.schema import ArrayLayout, DenseTeacherAttributes, MaskTeacherAttributes
from chorus_common.features.quantise import Quantiser
from chorus_common.runtime.errors import CacheError

if TYPE_CHECKING:
    from chorus_common.cache.writer import SceneCacheWriter


class ViewStream:
    """Appends batches of views (or of rows) to an array, a whole shard at a time: a partly written shard would be read
    and written again.
    """

    def __init__(self, writer: SceneCacheWriter, path: str, layout: ArrayLayout) -> None:
        self.layout, self._path, self._writer = layout, path, writer
        self._array = writer.create(path, layout)
        self._held: list[NDArray[Any]] = []
        self._done = 0

    def append(self, batch: NDArray[Any]) -> None:
        """Views (or rows) [B, ...]."""
        _, *rest = self.layout.shape
        if list(batch.shape[1:]) != rest:
            raise CacheError(
                f"scene {self._writer.scene_id}: {self._path} got entries of shape {batch.shape[1:]}, expected "
                f"{tuple(rest)}"
            )
        if self._count + len(batch) > self.layout.shape[0]:
            raise CacheError(
                f"scene {self._writer.scene_id}: {self._path} got more than the {self.layout.shape[0]} entries "
                "that were announced"
            )
        # a copy: the caller may reuse its buffer
        self._held.append(np.array(self._writer.checked(self._path, batch, self.layout)))
        shard = self.layout.shards[0]
        if sum(map(len, self._held)) >= shard:
            views = np.concatenate(self._held)
            whole = len(views) // shard * shard
            self._write(views[:whole])
            self._held = [views[whole:]]

    def finish(self) -> None:
        """Write the rest. Raises CacheError where views are missing."""
        if self._count != self.layout.shape[0]:
            raise CacheError(
                f"scene {self._writer.scene_id}: {self._path} got {self._count} of {self.layout.shape[0]} entries"
            )
        self._write(
            np.concatenate(self._held) if self._held else np.empty((0, *self.layout.shape[1:]), self.layout.dtype)
        )
        self._held = []

    @property
    def _count(self) -> int:
        return self._done + sum(map(len, self._held))

    def _write(self, views: NDArray[Any]) -> None:
        if len(views):
            self._array[self._done : self._done + len(views)] = views
            self._done += len(views)


class DenseTeacherWriter:
    """Quantises and appends the features of one dense teacher."""

    def __init__(self, writer: SceneCacheWriter, name: str, attributes: DenseTeacherAttributes) -> None:
        path = f"teachers/{name}/codes"
        self._writer, self._name, self._attributes = writer, name, attributes
        self._quantiser = Quantiser(attributes.bits)
        views = writer.n_views(path) if attributes.lifted_rows is None else 0
        self._stream = ViewStream(writer, path, schema.codes_layout(views, writer._header.grid.grid, attributes))
        self._cosines: list[NDArray[np.float32]] = []

    def append(self, standardised: NDArray[np.floating]) -> NDArray[np.float32]:
        """Standardised features [B, rows, cols, C] of the next B views, or [B, C] of the next B Gaussians of a teacher
        that comes lifted; returns them as a reader will get them.
        """
        channels = self._attributes.channels
        if standardised.shape[-1] != channels:
            raise CacheError(
                f"scene {self._writer.scene_id}: teacher {self._name} gave {standardised.shape[-1]} channels, "
                f"expected {channels}"
            )
        try:
            codes = self._quantiser.encode(standardised)
        except ValueError as error:
            raise CacheError(f"scene {self._writer.scene_id}: teacher {self._name}: {error}") from None
        self._stream.append(codes)
        stored = self._quantiser.decode(codes, channels)
        # view by view, for the memory of the products
        for exact, found in zip(standardised, stored) if standardised.ndim > 2 else [(standardised, stored)]:
            self._cosines.append(_cosine(exact, found))
        return stored

    def finish(self, views: int) -> DenseTeacherAttributes:
        """Write the rest; the attributes with the measured error."""
        self._stream.finish()
        cosines = np.concatenate(self._cosines) if self._cosines else np.ones(1, np.float32)
        mean, low = float(cosines.mean(dtype=np.float64)), float(np.percentile(cosines, 1))
        return self._attributes.model_copy(
            update={"token_cosine_mean": round(mean, 5), "token_cosine_p01": round(low, 5)}
        )


class MaskTeacherWriter:
    """Appends the pictures of ids of one mask teacher."""

    def __init__(self, writer: SceneCacheWriter, name: str, attributes: MaskTeacherAttributes) -> None:
        self._writer, self._name, self._attributes = writer, name, attributes
        views = writer.n_views(f"teachers/{name}")
        arrays = schema.mask_layouts(views, name, attributes)
        self._streams = {
            level: ViewStream(writer, f"teachers/{name}/masks/{level}", arrays[f"teachers/{name}/masks/{level}"])
            for level in attributes.levels
        }
        self._embeddings: dict[str, tuple[int, int]] = {}

    def append(self, masks: Mapping[str, NDArray[np.integer]]) -> None:
        """Ids of every level, [H, W] of one view or [B, H, W] of several; -1 = none."""
        if set(masks) != set(self._streams):
            raise CacheError(
                f"scene {self._writer.scene_id}: teacher {self._name} gave levels {sorted(masks)}, expected "
                f"{sorted(self._streams)}"
            )
        for level, ids in masks.items():
            if ids.size and int(ids.min()) < -1:
                raise CacheError(
                    f"scene {self._writer.scene_id}: teacher {self._name} gave mask id {ids.min()}; ids are -1 "
                    "(none) or more"
                )
            self._streams[level].append(ids[None] if ids.ndim == 2 else ids)

    def put_embeddings(self, level: str, offsets: NDArray[np.integer], values: NDArray[np.floating]) -> None:
        """One embedding per mask: values [M, E]; mask k of view v is row offsets[v] + k; offsets [V + 1]."""
        shape = (len(values), values.shape[1])
        self._embeddings[level] = shape
        attributes = self._attributes.model_copy(update={"embeddings": {level: shape}})
        arrays = schema.mask_layouts(self._writer.n_views(level), self._name, attributes)
        for kind, array in (("embeddings", values), ("offsets", offsets)):
            path = f"teachers/{self._name}/{kind}/{level}"
            self._writer._put(path, arrays[path], array)

    def finish(self, views: int) -> MaskTeacherAttributes:
        """Write the rest; the finished attributes."""
        for stream in self._streams.values():
            stream.finish()
        return self._attributes.model_copy(update={"embeddings": dict(sorted(self._embeddings.items()))})


def _cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float32]:
    """Cosines between the tokens of a and b [..., C], flat; 1 where both are zero."""
    x, y = a.reshape(-1, a.shape[-1]).astype(np.float32), b.reshape(-1, b.shape[-1]).astype(np.float32)
    dot, xx, yy = (np.einsum("tc,tc->t", p, q) for p, q in ((x, y), (x, x), (y, y)))
    norm = np.sqrt(xx * yy)
    return np.where(norm > 0, dot / np.maximum(norm, 1e-30), np.where(xx == yy, 1.0, 0.0)).astype(np.float32)
