"""What a scene's store holds: attributes (typed), arrays (shape, type, chunks, codecs), files.

One Zarr v3 store per scene, a folder `<scene_id>.zarr`. N Gaussians in Morton order, V views, R x C cells:

    gaussians/   means quats scales opacities colors, optional normals labels instances parts source_ids    [N, ...]
    cameras/     viewmats [V, 4, 4] f64, intrinsics [V, 3, 3] f64; attributes: names, width, height
    lifting/     anndata's CSR: indptr [N+1] i64, indices [nnz] i32 (= view * cells + cell), data [nnz] f16;
                 and order [N] i64
    teachers/<name>/codes               [V, R, C, bytes] u8            dense teachers (quantise.py)
    teachers/<name>/codes, rows         [K, bytes] u8, [K] i64         dense teachers that came lifted: code k is that
                                                                       of matrix row rows[k]; rows ascend
    teachers/<name>/masks/<level>       [V, H', W'] i16, -1 = none     mask teachers
    teachers/<name>/embeddings/<level>  [M, E] f16 unit rows
    teachers/<name>/offsets/<level>     [V+1] i64: the embedding of mask k of view v is row offsets[v] + k
    visibility/  weight [N] f32 (accumulated blending weight), n_views [N] i32
    views/       optional rgb [V, H, W, 3] u8, depth [V, H, W] f16 metres
    _files.json  every other file with its length and crc32c; written last

A scene whose features were all lifted elsewhere (`chorus-stage1 import`) has no views: V = 0, a grid of one cell, and a
matrix without entries, whose `order` still says which Gaussian a row is. Its visibility is 1 (or what the import was
told) where some teacher has a vector and 0 elsewhere, and n_views is 0 everywhere.

Floats are finite by construction, so that NaN, their fill value, betrays a missing chunk; integers have a fill value
outside their range. Bytes (codes, rgb) have no spare value: `store.CheckedStore` refuses a missing or shortened file
before Zarr can fill it in. Every chunk ends with a crc32c. Where anything here changes, SCHEMA_VERSION (names.py)
does too; an attribute with a default may be added without: older stores then read as before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from chorus_common.cache.names import SCHEMA_VERSION
from chorus_common.features.quantise import Bits, Quantiser
from chorus_common.lifting import CellGrid
from chorus_common.runtime.config import Config
from chorus_common.scene import COLUMNS, RenderMode

FILES = "_files.json"

#: Columns of a scene (`chorus_common.scene.COLUMNS`) that every store has, and those that it has where the scene does.
REQUIRED_COLUMNS = ("means", "quats", "scales", "opacities", "colors")
OPTIONAL_COLUMNS = ("normals", "labels", "instances", "parts")

_ROWS_PER_CHUNK, _ROWS_PER_SHARD = 1 << 16, 1 << 23
_ENTRIES_PER_CHUNK, _ENTRIES_PER_SHARD = 1 << 17, 1 << 23
VIEWS_PER_SHARD = 32
LIFTED_ROWS_PER_CHUNK = 1 << 12

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


def _safe_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("names are 1 to 128 of A-Z a-z 0-9 . _ - and do not begin with a dot")
    return name


Name = Annotated[str, AfterValidator(_safe_name)]
Count = Annotated[int, Field(ge=0)]
#: zstd alone; bit shuffle and zstd (blosc); differences of neighbours, byte shuffle and zstd. A crc32c follows each.
Codec = Literal["zstd", "bitshuffle", "delta"]
_CODEC_NAMES: dict[tuple[str, ...], Codec] = {
    ("bytes", "zstd", "crc32c"): "zstd",
    ("bytes", "blosc", "crc32c"): "bitshuffle",
    ("numcodecs.delta", "bytes", "blosc", "crc32c"): "delta",
}


class GridAttributes(Config):
    """The cell grid that all dense teachers share, and how a pixel's weight is split over cells."""

    width: int
    height: int
    cell: int
    interpolation: Literal["nearest", "bilinear"] = "nearest"

    @property
    def grid(self) -> CellGrid:
        return CellGrid(self.width, self.height, self.cell)


class DenseTeacherAttributes(Config):
    """A dense teacher's features: how they were made, how they are stored, and what storing them cost."""

    spec: str
    fingerprint: str
    channels: int
    bits: Bits
    standardiser: str  #: fingerprint of the PhiSStandardiser that standardised them
    text_aligned: bool = False
    token_cosine_mean: float = 1.0  #: cosine of stored to original standardised tokens
    token_cosine_p01: float = 1.0  #: its first percentile
    lifted_rows: Count | None = None  #: Gaussians with a vector, of a teacher that came lifted; None: vectors per cell


#: What of a mask its embedding is made of: the mean of the dense tokens under it, or a crop with the rest blurred.
MaskForm = Literal["pooled", "crops"]


class EmbeddingSource(Config):
    """Whose space the embeddings of masks lie in: the text-aligned teacher, and what of a mask it was shown."""

    spec: str  #: `chorus_common.text.load_text_encoder(spec)` is the text side
    fingerprint: str
    form: MaskForm


class MaskTeacherAttributes(Config):
    """A mask teacher's pictures of ids; `embeddings`: level -> (masks in all views, channels), unit vectors."""

    spec: str
    fingerprint: str
    levels: tuple[Name, ...]  #: from coarse to fine
    height: int
    width: int
    embeddings: dict[Name, tuple[Count, int]] = Field(default_factory=dict)
    embedded_by: EmbeddingSource | None = None  #: None where the run had no text-aligned teacher


class AlignmentAttributes(Config):
    """How the scene was brought to z up and metres: x_cache = scale * R(quat) @ x_file (chorus_common.scene_check)."""

    quat: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)  #: w, x, y, z
    scale: float = 1.0


class SceneHeader(Config):
    """What a writer is told before it gets any array."""

    scene_id: Name
    fingerprint: str
    grid: GridAttributes
    dataset: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)  #: the resolved settings of the run that made it
    alignment: AlignmentAttributes = Field(default_factory=lambda: AlignmentAttributes())  #: from the file's frame
    lod: int = 0  #: level of a streamed scene that was taken


class CacheAttributes(SceneHeader):
    """Attributes of a finished store."""

    schema_version: int = SCHEMA_VERSION
    scene_name: str
    label_space: str
    render_mode: RenderMode = RenderMode.CLASSIC  #: how the scene is meant to be rasterised
    n_gaussians: Count
    source_rows: int = 0  #: rows of the source file; 0 = n_gaussians
    n_views: Count
    nnz: Count
    columns: tuple[str, ...]  #: optional columns of the scene that are stored
    coverage: float  #: share of Gaussians with visibility
    dropped_weight: float  #: largest share of a Gaussian's weight that the stored index leaves out
    weight_error: float  #: largest relative error of a stored lifting weight
    dense_teachers: dict[Name, DenseTeacherAttributes] = Field(default_factory=dict)
    mask_teachers: dict[Name, MaskTeacherAttributes] = Field(default_factory=dict)
    measures: dict[str, float] = Field(default_factory=dict)  #: figures measured while the scene was made, by name
    rgb: tuple[int, int] | None = None  #: height, width
    depth: tuple[int, int] | None = None


@dataclass(frozen=True)
class ArrayLayout:
    """Shape, type and encoding of one array."""

    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...]
    codec: Codec

    @property
    def fill_value(self) -> float | int:
        """NaN for floats; the lowest value for signed integers, which no array uses; 0 for bytes, which have none to
        spare.
        """
        dtype = np.dtype(self.dtype)
        if dtype.kind == "f":
            return float("nan")
        return int(np.iinfo(dtype).min)

    @property
    def chunk_keys(self) -> Iterator[str]:
        """File names of the shards below the array's folder."""
        for index in np.ndindex(*(-(-s // n) for s, n in zip(self.shape, self.shards))):
            yield "/".join(["c", *map(str, index)])

    @staticmethod
    def from_metadata(metadata: Mapping[str, Any]) -> ArrayLayout:
        """The layout that an array's zarr.json declares. Raises KeyError, TypeError or ValueError where it is not one
        of ours.
        """
        if metadata["node_type"] != "array" or metadata["storage_transformers"] or len(metadata["codecs"]) != 1:
            raise ValueError("not a sharded array")
        sharding = metadata["codecs"][0]["configuration"]
        inner = tuple(codec["name"] for codec in sharding["codecs"])
        if inner not in _CODEC_NAMES:
            raise ValueError(f"codecs {inner}")
        return ArrayLayout(
            tuple(metadata["shape"]),
            metadata["data_type"],
            tuple(sharding["chunk_shape"]),
            tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"]),
            _CODEC_NAMES[inner],
        )


def row_layout(
    n: int, dtype: str, width: int = 0, *, chunk: int = _ROWS_PER_CHUNK, shard: int = _ROWS_PER_SHARD,
    codec: Codec = "bitshuffle",
) -> ArrayLayout:  # fmt: skip
    """n rows of `width` numbers (0: one number each), in chunks of `chunk` rows within shards of `shard` rows."""
    tail = (width,) if width else ()
    rows = max(1, min(n, chunk))
    per_shard = min(max(1, -(-n // rows)), shard // chunk)
    return ArrayLayout((n, *tail), dtype, (rows, *tail), (rows * per_shard, *tail), codec)


def view_layout(shape: tuple[int, ...], dtype: str, codec: Codec) -> ArrayLayout:
    """One chunk per view, VIEWS_PER_SHARD views per shard."""
    views, *rest = shape
    tail = tuple(max(1, size) for size in rest)
    return ArrayLayout(shape, dtype, (1, *tail), (max(1, min(views, VIEWS_PER_SHARD)), *tail), codec)


def gaussian_layouts(n: int, optional: tuple[str, ...]) -> dict[str, ArrayLayout]:
    """Of the columns that every store has and of `optional` ones (`source_ids` may be among them)."""
    arrays = {}
    for key in (*REQUIRED_COLUMNS, *optional):
        width, dtype = COLUMNS[key]
        arrays[f"gaussians/{key}"] = row_layout(n, np.dtype(dtype).name, width)
    return arrays


def camera_layouts(views: int) -> dict[str, ArrayLayout]:
    return {
        f"cameras/{key}": ArrayLayout(
            (views, k, k), "float64", (max(1, views), k, k), (max(1, views), k, k), "bitshuffle"
        )
        for key, k in (("viewmats", 4), ("intrinsics", 3))
    }


def lifting_layouts(n: int, nnz: int) -> dict[str, ArrayLayout]:
    chunk, shard = _ENTRIES_PER_CHUNK, _ENTRIES_PER_SHARD
    return {
        "lifting/order": row_layout(n, "int64"),
        "lifting/indptr": row_layout(n + 1, "int64"),
        "lifting/indices": row_layout(nnz, "int32", chunk=chunk, shard=shard, codec="delta"),
        "lifting/data": row_layout(nnz, "float16", chunk=chunk, shard=shard),
    }


def visibility_layouts(n: int) -> dict[str, ArrayLayout]:
    return {"visibility/weight": row_layout(n, "float32"), "visibility/n_views": row_layout(n, "int32")}


def codes_layout(views: int, grid: CellGrid, teacher: DenseTeacherAttributes) -> ArrayLayout:
    token = Quantiser(teacher.bits).token_bytes(teacher.channels)
    if teacher.lifted_rows is not None:
        return row_layout(teacher.lifted_rows, "uint8", token, chunk=LIFTED_ROWS_PER_CHUNK, shard=1 << 16, codec="zstd")
    return view_layout((views, grid.rows, grid.cols, token), "uint8", "zstd")


def mask_layouts(views: int, name: str, teacher: MaskTeacherAttributes) -> dict[str, ArrayLayout]:
    arrays = {
        f"teachers/{name}/masks/{level}": view_layout((views, teacher.height, teacher.width), "int16", "bitshuffle")
        for level in teacher.levels
    }
    for level, (rows, channels) in teacher.embeddings.items():
        arrays[f"teachers/{name}/embeddings/{level}"] = row_layout(
            rows, "float16", channels, chunk=1 << 12, shard=1 << 17
        )
        arrays[f"teachers/{name}/offsets/{level}"] = row_layout(views + 1, "int64")
    return arrays


def layouts(attributes: CacheAttributes) -> dict[str, ArrayLayout]:
    """Every array that a store with these attributes holds, no more and no less."""
    a, views = attributes, attributes.n_views
    arrays = gaussian_layouts(a.n_gaussians, a.columns) | camera_layouts(views)
    arrays |= lifting_layouts(a.n_gaussians, a.nnz) | visibility_layouts(a.n_gaussians)
    for name, dense in a.dense_teachers.items():
        arrays[f"teachers/{name}/codes"] = codes_layout(views, a.grid.grid, dense)
        if dense.lifted_rows is not None:
            arrays[f"teachers/{name}/rows"] = row_layout(dense.lifted_rows, "int64")
    for name, masks in a.mask_teachers.items():
        arrays |= mask_layouts(views, name, masks)
    if a.rgb is not None:
        arrays["views/rgb"] = view_layout((views, *a.rgb, 3), "uint8", "bitshuffle")
    if a.depth is not None:
        arrays["views/depth"] = view_layout((views, *a.depth), "float16", "bitshuffle")
    return arrays


def groups(arrays: Mapping[str, ArrayLayout]) -> set[str]:
    """Paths of the groups above these arrays; "" is the root."""
    return {path.rsplit("/", i)[0] for path in arrays for i in range(1, path.count("/") + 1)} | {""}
