"""Which scenes of a manifest a command works on."""

from __future__ import annotations

from collections.abc import Sequence

from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.runtime.errors import ConfigError, ManifestError


def select_rows(
    manifest: Manifest, split: str | None, dataset: str | None, *, lod: int | None = None,
    max_gaussians: int | None = None,
) -> list[ManifestRow]:  # fmt: skip
    """Rows of a manifest, refused when the selection is empty. lod, max_gaussians: see `ManifestRow.told`."""
    rows = [row.told(lod, max_gaussians) for row in manifest.select(split=split, dataset=dataset)]
    if not rows:
        wanted = ", ".join(f"{key} {value}" for key, value in (("split", split), ("dataset", dataset)) if value)
        raise ManifestError(f"the manifest holds no scene{' of ' + wanted if wanted else ''}")
    if taken := {"standardisers", "outcomes"} & {row.dataset for row in rows}:
        raise ManifestError(f"a data set cannot be called '{min(taken)}': stores have a folder of that name")
    return rows


def shard_rows(rows: Sequence[ManifestRow], index: int, count: int) -> list[ManifestRow]:
    """Every `count`-th row from `index` on: a shard of the manifest, disjoint from the others and of nearly equal
    size.
    """
    return list(rows[index::count])


def parse_shard(text: str) -> tuple[int, int]:
    """ "i/n" (counted from 1) -> (i - 1, n). Raises ConfigError."""
    first, slash, second = text.partition("/")
    if not (slash and first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second)):
        raise ConfigError(f"--shard {text}: expected i/n with 1 <= i <= n, for example 1/8")
    return int(first) - 1, int(second)
