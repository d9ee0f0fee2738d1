"""Features for every Gaussian of a scene, whatever its size."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor

from chorus_common.runtime.progress import progress
from chorus_common.scene import GaussianScene
from stage2_distill.encoder import Encoder, EncoderConfig, PointBatch
from stage2_distill.encoder.inputs import scene_inputs
from stage2_distill.encoder.latent import DenseLatent, Latent, LevelLatent, Tokens
from stage2_distill.encoder.out_of_core import encode_out_of_core
from stage2_distill.encoder.products import fast_products

#: voxels per block where a scene is too large for one pass: about 1 GiB of working memory at 256 channels
BLOCK_ROWS = 1 << 18
#: share of the free memory that one pass may take by the estimate of `bytes_per_voxel`
_SHARE = 0.7


@dataclass(frozen=True)
class Blocks:
    """How scenes that are larger than memory are encoded (encoder/out_of_core.py).

    Attributes:
        scratch: folder for features between layers. The caller removes it after reading the result; what was begun
            there goes on.
        rows: voxels per block; None = only scenes whose one pass would not fit into the free memory go in blocks.
    """

    scratch: Path
    rows: int | None = None

    def rows_for(self, voxels: int, config: EncoderConfig, device: torch.device) -> int | None:
        """Voxels per block for a scene of so many, or None where it is encoded in one pass."""
        if self.rows is not None:
            return self.rows
        return None if voxels * bytes_per_voxel(config) <= _SHARE * free_memory(device) else BLOCK_ROWS


@dataclass(frozen=True)
class VoxelFeatures:
    """An encoder's output for one scene: the latent of its M voxels, and voxel [N] i64 of its Gaussians."""

    latent: Latent
    voxel: Tensor

    def rows(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Features [stop - start, D] f32 of these Gaussians, on the CPU; those of one voxel are equal."""
        return self.latent.rows(self.voxel[start:stop]).cpu()


@torch.no_grad()
def encode_voxels(
    encoder: Encoder, scene: GaussianScene, *, absent: tuple[str, ...] = (), blocks: Blocks | None = None
) -> VoxelFeatures:
    """Features of the voxels of `scene`, and the voxel of every Gaussian, in the scene's order.

    The encoder is used in eval mode (and left in the mode it was in) on the device where its weights are.

    Args:
        absent: attributes to treat as missing (see `scene_inputs`).
        blocks: how to go about scenes that are too large for one pass; None = always one pass.
    """
    batch, inverse = scene_inputs(scene, encoder.config, absent=absent)
    was_training = encoder.training
    encoder.eval()
    try:
        return VoxelFeatures(encode_cloud(encoder, batch, blocks), torch.from_numpy(inverse))
    finally:
        encoder.train(was_training)


@torch.no_grad()
def encode_cloud(encoder: Encoder, batch: PointBatch, blocks: Blocks | None, *, shown: bool | None = None) -> Latent:
    """The latent of one cloud by an encoder in eval mode; in blocks where `blocks` say so.

    shown: report progress; None = where the cloud goes in blocks.
    """
    device = next(encoder.parameters()).device
    with fast_products(device):
        rows = None if blocks is None else blocks.rows_for(len(batch), encoder.config, device)
        if blocks is not None and rows is not None:
            found = encode_out_of_core(encoder, batch, blocks.scratch, rows, shown=shown is not False)
            return DenseLatent(found.values, Tokens(*found.deepest), found.scratch, device)
        batch = batch.to(device)
        hierarchy = encoder.hierarchy(batch)
        total = sum(len(level) * depth for level, depth in zip(hierarchy, encoder.config.enc_depths))
        with progress(total, "voxels through blocks") if shown else nullcontext() as report:
            levels = encoder.forward_levels(batch, levels=hierarchy, report=None if report is None else report.advance)
        deepest = levels[-1]
        tokens = Tokens(deepest.feat.float(), deepest.level.coord, deepest.level.grid_coord)
        if encoder.config.enc_mode:
            return LevelLatent(levels, encoder.config.upcast, tokens)
        return DenseLatent(encoder.decode(levels).float(), tokens)


def encode_scene(encoder: Encoder, scene: GaussianScene, *, absent: tuple[str, ...] = ()) -> Tensor:
    """Features [N, D] f32 on the CPU, one row per Gaussian of `scene`, in its order; see `encode_voxels`."""
    return encode_voxels(encoder, scene, absent=absent).rows()


def bytes_per_voxel(config: EncoderConfig) -> int:
    """About what one pass takes per voxel of the finest level: integer tables, the result twice, and five arrays of
    the widest features there (measured with 96 and 256 channels: 3.0 and 5.6 kB of 3.3 and 7.8).
    """
    widest = max(config.enc_channels[0], 0 if config.enc_mode else config.dec_channels[0])
    return 600 + 4 * (2 * config.out_channels + 5 * widest)


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on `device`; for the CPU within the limits of this process's control groups."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    groups = Path("/proc/self/cgroup")
    if not groups.exists():
        return free
    own = next((line[3:] for line in groups.read_text().splitlines() if line.startswith("0::")), "/")
    return min([free, *free_in_groups(Path("/sys/fs/cgroup"), own)])


def free_in_groups(root: Path, own: str) -> list[int]:
    """Bytes that each control group (version 2) from `own` up to `root` still allows; nothing for those without a
    limit. Batch systems and containers set them.
    """
    free, group = [], root / own.strip("/")
    while group != root.parent:
        limit, used = group / "memory.max", group / "memory.current"
        if limit.exists() and used.exists() and limit.read_text().strip() != "max":
            free.append(int(limit.read_text()) - int(used.read_text()))
        group = group.parent
    return free
