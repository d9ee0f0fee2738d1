"""One scene's features to files: passes of the encoder, averaged per Gaussian, streamed to the disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from chorus_common.runtime.atomic import atomic_path
from chorus_common.runtime.devices import Precision, autocast
from chorus_common.runtime.progress import Progress, progress
from chorus_common.scene import I64, GaussianScene
from chorus_common.scene_check import AlignmentSettings, align_scene
from chorus_common.scene_check.words import AUTO, OFF
from stage2_distill.encode import Blocks, encode_cloud
from stage2_distill.encoder import Encoder
from stage2_distill.encoder.latent import Latent, Tokens
from stage2_distill.encoder.products import fast_products
from stage2_distill.inference.clouds import Cloud, Clouds, own_clouds, release_clouds
from stage2_distill.inference.files import ROWS, FileFormat, RowFile, Target, write_arrays
from stage2_distill.inference.outlier_filter import release_outliers
from stage2_distill.inference.outputs import LAST, Output, outputs
from stage2_distill.preconditions import settings_for, unmet
from stage2_distill.split_projector import voxels_at_once
from stage2_distill.student import Student

_NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        outputs: names (`outputs.py`). protocol, fragments, tta_rotations: see clouds.py; fragments None = all.
        outlier_filter: mask what the released Chorus would drop: such rows are left out of the clouds, their features
            are zeros, and a file marks them.
        dtype, format: of the files. precision: of matrix products.
        up, scale, outliers: how a scene is brought to z up and metres first (`AlignmentSettings`). Protocol release
            takes a scene as it is where they say auto, and warns.
    """

    outputs: tuple[str, ...]
    protocol: Literal["own", "release"] = "own"
    fragments: int | None = 1
    tta_rotations: int = 1
    outlier_filter: bool = False
    dtype: Literal["f16", "f32"] = "f32"
    format: FileFormat = "npy"
    precision: Precision = "fp32"
    up: str = AUTO
    scale: str = AUTO
    outliers: str = AUTO

    @property
    def alignment(self) -> AlignmentSettings:
        """What is done to a scene first."""
        words = {"up": self.up, "scale": self.scale, "outliers": self.outliers}
        if self.protocol == "release":
            words = {key: OFF if word == AUTO else word for key, word in words.items()}
        return AlignmentSettings(**words)

    @property
    def number(self) -> np.dtype[Any]:
        """The files' number format."""
        return np.dtype(np.float16 if self.dtype == "f16" else np.float32)


@torch.inference_mode()
def write_features(
    model: Encoder | Student,
    scene: GaussianScene,
    target: Target,
    request: Request,
    *,
    absent: tuple[str, ...] = (),
    blocks: Blocks | None = None,
    shown: bool = True,
) -> dict[str, Any]:
    """Write what `request` asks of a model in eval mode for every Gaussian of `scene`, rows in its order.

    shown: report progress, over passes where there are several, else within the one.

    Returns: what a record says of it (gaussians, passes, voxels of the first pass, outliers, files).
    """
    encoder = model if isinstance(model, Encoder) else model.encoder
    wanted = outputs(model, request.outputs)
    n = len(scene)
    aligned = align_scene(scene, settings_for(encoder.config, request.alignment))
    lacking = unmet(encoder.config, aligned.scene, aligned.findings)
    scene, outlier = aligned.scene, None
    rows = _FileRows(n, np.flatnonzero(~aligned.outliers), np.flatnonzero(aligned.outliers), aligned.nearest)
    if request.outlier_filter:
        dropped = release_outliers(scene)
        outlier = aligned.outliers.copy()
        outlier[rows.kept[dropped]] = True
        rows = _FileRows(n, rows.kept[~dropped], _NONE, _NONE)
        scene = scene.select(~dropped)
    clouds = _clouds(scene, encoder, request, absent)
    merged = _Merged.of(wanted, clouds, rows, target.work, request.number)
    tokens: list[Tokens] = []
    voxels = 0
    device = next(encoder.parameters()).device
    single = shown and clouds.number == 1
    with progress(clouds.number, "passes") if shown and clouds.number > 1 else nullcontext() as report:
        for i, cloud in enumerate(clouds.make):
            of_pass = None if blocks is None else replace(blocks, scratch=blocks.scratch / f"pass{i}")
            with autocast(device, request.precision):
                latent = encode_cloud(encoder, cloud.batch, of_pass, shown=single)
            voxels = voxels or len(cloud.batch)
            shown_tiles = progress(len(cloud.batch), "voxels to outputs") if single else nullcontext()
            with autocast(device, request.precision), shown_tiles as tiles:
                merged.take(latent, cloud, tiles, device)
            if LAST in request.outputs and latent.tokens is not None:
                tokens.append(latent.tokens.cpu())
            latent.close()
            if of_pass is not None:
                shutil.rmtree(of_pass.scratch, ignore_errors=True)
            if report is not None:
                report.advance()
    files = merged.publish(target)
    if tokens:
        files[LAST] = _write_tokens(tokens, target, request.number)
    if outlier is not None:
        with atomic_path(target.mask) as temporary, open(temporary, "wb") as handle:
            np.save(handle, outlier)
        files["outlier"] = target.mask.name
    shutil.rmtree(target.work, ignore_errors=True)
    marked = 0 if outlier is None else int(outlier.sum())
    findings = [finding.line() for finding in (*aligned.findings, *lacking) if finding.severity in ("note", "warning")]
    return {
        "gaussians": n, "passes": clouds.number, "voxels": voxels, "outliers": marked, "files": files,
        "alignment": aligned.alignment.as_dict(), "findings": findings,
    }  # fmt: skip


def _clouds(scene: GaussianScene, encoder: Encoder, request: Request, absent: tuple[str, ...]) -> Clouds:
    if request.protocol == "release":
        return release_clouds(scene, encoder.config, absent=absent)
    return own_clouds(
        scene,
        encoder.config,
        fragments=request.fragments,
        tta_rotations=request.tta_rotations,
        absent=absent,
    )


@dataclass(frozen=True, eq=False)
class _FileRows:
    """Which rows of the file the clouds' Gaussians are, and who answers for those that lie apart from all others.

    Attributes:
        n: rows of the file. kept [K]: row of each Gaussian of the clouds.
        apart [A]: rows that were left out; nearest [A]: the kept Gaussian (its place in `kept`) whose feature they get.
    """

    n: int
    kept: I64
    apart: I64
    nearest: I64

    def times(self, times: NDArray[np.int32]) -> NDArray[np.int32]:
        """[n]: how often each row of the file is answered, from that of the kept Gaussians [K]."""
        every = np.zeros(self.n, np.int32)
        every[self.kept] = times
        every[self.apart] = times[self.nearest]
        return every

    def of_cloud(self, cloud: Cloud) -> tuple[I64, I64]:
        """(rows of the file, their voxels) that a cloud answers."""
        rows, voxel = self.kept[cloud.rows], cloud.voxel
        if len(self.apart):
            voxel_of = np.full(len(self.kept), -1, dtype=np.int64)
            voxel_of[cloud.rows] = cloud.voxel
            borrowed = voxel_of[self.nearest]
            rows = np.concatenate([rows, self.apart[borrowed >= 0]])
            voxel = np.concatenate([voxel, borrowed[borrowed >= 0]])
        return rows, voxel


@dataclass(frozen=True)
class _Merged:
    """Features on the disk: the results themselves where there is one pass, else sums to be divided at the end."""

    outputs: Sequence[Output]
    files: list[RowFile]
    times: NDArray[np.int32]
    passes: int
    rows: _FileRows
    work: Path
    number: np.dtype[Any]

    @staticmethod
    def of(wanted: Sequence[Output], clouds: Clouds, rows: _FileRows, work: Path, number: np.dtype[Any]) -> _Merged:
        kind = number if clouds.number == 1 else np.dtype(np.float32)
        files = [RowFile(work / f"{o.name}.npy", rows.n, o.channels, kind) for o in wanted]
        return _Merged(wanted, files, rows.times(clouds.times), clouds.number, rows, work, number)

    def take(self, latent: Latent, cloud: Cloud, report: Progress | None, device: torch.device) -> None:
        """The outputs of one pass to the rows that it answers, some voxels at a time."""
        if not self.outputs:
            return
        rows, voxel = self.rows.of_cloud(cloud)
        by_voxel = rows[np.argsort(voxel, kind="stable")]
        counts = np.bincount(voxel, minlength=len(latent))
        ends = np.cumsum(counts)
        with fast_products(device):
            for block in latent.blocks(voxels_at_once(device)):
                voxels = block.voxels.cpu().numpy()
                times = counts[voxels]
                place = np.arange(times.sum()) + np.repeat(ends[voxels] - np.cumsum(times), times)
                of_block, local = by_voxel[place], torch.from_numpy(np.repeat(np.arange(len(voxels)), times))
                if len(of_block):
                    local = local.to(device)
                    for output, file in zip(self.outputs, self.files):
                        values = output.of_latent(block).float()
                        if self.passes == 1:
                            file.set(of_block, output.finish(values)[local])
                        else:
                            file.add(of_block, values[local])
                if report is not None:
                    report.advance(len(block))

    def publish(self, target: Target) -> dict[str, str]:
        """Finished features under their names; returns the files' names."""
        names = {}
        for output, file in zip(self.outputs, self.files):
            if self.passes > 1:
                file = self._finished(output, file)
            path = target.path(output.name)
            file.publish(path, target.format, "feat")
            names[output.name] = path.name
        return names

    def _finished(self, output: Output, sums: RowFile) -> RowFile:
        n = len(self.times)
        done = RowFile(self.work / f"{output.name}-done.npy", n, output.channels, self.number)
        for start in range(0, n, ROWS):
            stop = min(start + ROWS, n)
            times = torch.from_numpy(self.times[start:stop])[:, None]
            mean = torch.from_numpy(np.array(sums.values[start:stop])) / times.clamp(min=1)
            values = torch.where(times > 0, output.finish(mean).float(), 0.0)
            done.set(np.arange(start, stop), values)
            sums.release()
        sums.path.unlink()
        return done


def _write_tokens(tokens: list[Tokens], target: Target, number: np.dtype[Any]) -> str:
    """The deepest level of all passes, one after the other: offset [P] i64 cumulative, fragment [L] i64."""
    sizes = np.array([len(t.feat) for t in tokens])
    arrays: dict[str, NDArray[Any]] = {
        "feat": np.concatenate([t.feat.numpy() for t in tokens]).astype(number),
        "coord": np.concatenate([t.coord.numpy() for t in tokens]),
        "grid_coord": np.concatenate([t.grid_coord.numpy() for t in tokens]),
        "offset": np.cumsum(sizes),
        "fragment": np.repeat(np.arange(len(sizes)), sizes),
    }
    path = target.path(LAST)
    if target.format != "npy":
        write_arrays(path, target.format, arrays)
        return path.name
    for name, value in arrays.items():
        file = path if name == "feat" else target.path(LAST, name)
        with atomic_path(file) as temporary, open(temporary, "wb") as handle:
            np.save(handle, value)
    return path.name
