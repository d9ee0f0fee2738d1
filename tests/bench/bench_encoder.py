"""Encoder: Sonata's forward pass against upstream's algorithm, and a training step of `chorus` against `scenesplat`.

Every measurement runs in a process of its own, so that its peak memory is its own, and ratios are of seconds of CPU, so
that other work on the machine does not enter. The baseline of the forward pass is
upstream's algorithm written plainly on the same weights: attention that materialises its logits, convolution that
gathers N x 27 x C. Low precision is what "auto" takes on this CPU: fp32 where it has no bf16 units.

python -m tests.bench.bench_encoder            all rows
python -m tests.bench.bench_encoder scaling    time and memory of `chorus` and `sonata` over the number of voxels
python -m tests.bench.bench_encoder blocks     the rows on encoding in blocks alone
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chorus_common.runtime.devices import autocast, choose_precision
from chorus_common.runtime.peak_memory import peak_memory
from stage2_distill.encoder import Encoder, PointBatch, build_encoder
from stage2_distill.encoder.blocks import Block
from stage2_distill.encoder.hierarchy import Level
from stage2_distill.encoder.neighbours import Neighbours
from stage2_distill.encoder.out_of_core import encode_out_of_core
from stage2_distill.encoder.products import fast_products
from tests.bench.row import Row

COMMAND = "python -m tests.bench.bench_encoder"
#: Sonata's class defaults with a decoder: 133,331,472 weights
SONATA: dict[str, Any] = {
    "enc_mode": False, "order": ("z", "z-trans"), "dec_depths": (3, 3, 3, 3), "dec_channels": (96, 96, 192, 384),
    "dec_num_head": (6, 6, 12, 32),
}  # fmt: skip
FORWARD_VOXELS, STEP_VOXELS = 60_000, 4_000
BLOCK_VOXELS, BLOCK_ROWS = 200_000, 20_000


def rows() -> list[Row]:
    """Rows of `make bench`."""
    ours, plain, half = (isolated(_forward, kind, FORWARD_VOXELS) for kind in ("tiled", "plain", "low"))
    chorus, scenesplat = isolated(_step, "chorus-lite", STEP_VOXELS), isolated(_step, "scenesplat", STEP_VOXELS)
    algorithm, low = "upstream's algorithm, fp32", choose_precision("auto", torch.device("cpu"))[0]
    return [
        Row("encoder/sonata-forward-60k", ours["cpu_seconds"], "s of CPU", ours["cpu_seconds"] / plain["cpu_seconds"],
            COMMAND, algorithm, plain["cpu_seconds"]),
        Row("encoder/sonata-forward-60k-bf16", half["cpu_seconds"], f"s of CPU in {low}",
            half["cpu_seconds"] / plain["cpu_seconds"], COMMAND, algorithm, plain["cpu_seconds"]),
        Row("encoder/sonata-forward-60k-bf16-error", half["error"], "relative L2", half["error"], COMMAND),
        Row("encoder/sonata-forward-60k-memory", ours["mib"], "MiB beyond weights", ours["mib"] / plain["mib"], COMMAND,
            algorithm, plain["mib"]),
        Row("encoder/chorus-vs-scenesplat-step", chorus["voxels_per_s"], "voxels per s of CPU, forward and backward",
            chorus["voxels_per_s"] / scenesplat["voxels_per_s"], COMMAND, "scenesplat", scenesplat["voxels_per_s"]),
        Row("encoder/chorus-vs-scenesplat-memory", chorus["mib"], "MiB, weights and gradients included",
            chorus["mib"] / scenesplat["mib"], COMMAND, "scenesplat", scenesplat["mib"]),
        *out_of_core_rows(),
    ]  # fmt: skip


def out_of_core_rows() -> list[Row]:
    """`chorus` in blocks with features on disk against one pass in memory."""
    whole, blocks = (
        isolated(_forward, "tiled", BLOCK_VOXELS, "chorus-lite"),
        isolated(_blocks, BLOCK_VOXELS, BLOCK_ROWS),
    )
    one = "one pass in memory"
    return [
        Row("encoder/out-of-core-memory", blocks["mib"], "MiB beyond weights", blocks["mib"] / whole["mib"], COMMAND,
            one, whole["mib"]),
        Row("encoder/out-of-core-time", blocks["cpu_seconds"], "s of CPU",
            blocks["cpu_seconds"] / whole["cpu_seconds"], COMMAND, one, whole["cpu_seconds"]),
        Row("encoder/out-of-core-deviation", blocks["deviation"], "of the largest value", blocks["deviation"], COMMAND),
    ]  # fmt: skip


def isolated(work: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Result of `work(*arguments)` in a fresh process on one thread: threads that wait for others burn CPU as well."""
    with multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, (1,)) as pool:
        return pool.apply(work, arguments)


def room_voxels(n: int, seed: int = 0) -> Tensor:
    """About `n` occupied 2 cm voxels [N, 3] i64 of a furnished room: walls, floor, ceiling and boxes, 6 mm of noise."""
    rng = np.random.default_rng(seed)
    scale = float(np.sqrt(n / 430_000))
    size = np.array([4.2, 3.4, 2.6]) * scale * 1.02
    boxes = [(np.zeros(3), size)] + [
        (rng.random(3) * size * (0.8, 0.8, 0.3), (rng.random(3) * 0.7 + 0.2) * scale) for _ in range(14)
    ]
    points = []
    for origin, extent in boxes:
        for axis in range(3):
            u, v = (np.eye(3)[k] * extent for k in range(3) if k != axis)
            count = int(np.linalg.norm(u) * np.linalg.norm(v) * 15_000)
            for side in (0.0, 1.0):
                ab = rng.random((count, 2))
                face = origin + np.eye(3)[axis] * extent * side + ab[:, :1] * u + ab[:, 1:] * v
                points.append(face + rng.normal(0, 0.006, (count, 3)))
    voxels = np.floor(np.concatenate(points) / 0.02).astype(np.int64)
    return torch.from_numpy(np.unique(voxels - voxels.min(0), axis=0))


def room(n: int, channels: int) -> PointBatch:
    """A one-cloud batch of `room_voxels` with random features."""
    grid = room_voxels(n)
    feat = torch.randn(len(grid), channels, generator=torch.Generator().manual_seed(0))
    return PointBatch(grid.float() * 0.02, grid, feat, torch.tensor([len(grid)]))


def peak_mib() -> float:
    """Peak memory of this process."""
    return peak_memory() / 2**20


def _forward(kind: str, n: int, preset: str = "sonata") -> dict[str, float]:
    """Seconds and seconds of CPU (best of repeats), peak MiB beyond the weights, and in low precision the relative
    error to fp32.
    """
    torch.manual_seed(0)
    encoder = build_encoder(preset, **(SONATA if preset == "sonata" else {})).eval()
    batch = room(n, encoder.config.in_channels)
    precision = choose_precision("auto", batch.feat.device)[0] if kind == "low" else "fp32"
    before, times, cpu_times = peak_mib(), [], []
    with torch.inference_mode():
        for _ in range(1 if kind == "plain" else 2):
            start, cpu_start = time.perf_counter(), time.process_time()
            if kind == "plain":
                out = plain_forward(encoder, batch)
            else:
                with fast_products(), autocast(batch.feat.device, precision):
                    out = encoder(batch)
            times.append(time.perf_counter() - start)
            cpu_times.append(time.process_time() - cpu_start)
        result = {
            "seconds": min(times),
            "cpu_seconds": min(cpu_times),
            "mib": peak_mib() - before,
            "voxels": float(len(batch)),
        }
        if kind == "low":
            exact = encoder(batch)
            result["error"] = float((out.float() - exact).norm() / exact.norm())
    return result


def _blocks(n: int, block_rows: int, preset: str = "chorus-lite") -> dict[str, float]:
    """Seconds of CPU and peak MiB beyond the weights of encoding in blocks, and the largest deviation from one pass."""
    torch.manual_seed(0)
    encoder = build_encoder(preset).eval()
    batch = room(n, encoder.config.in_channels)
    before, start = peak_mib(), time.process_time()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        result, scratch, _ = encode_out_of_core(encoder, batch, Path(folder) / "work", block_rows)
        scratch.release()
        measured = {
            "cpu_seconds": time.process_time() - start,
            "mib": peak_mib() - before,
            "voxels": float(len(batch)),
        }
        with torch.inference_mode():
            whole = encoder(batch)
        return measured | {"deviation": float((result - whole).abs().max() / whole.abs().max())}


def _step(preset: str, n: int) -> dict[str, float]:
    """Voxels per second of CPU of forward and backward in training mode, and the peak MiB of the process beyond its
    start.
    """
    torch.manual_seed(0)
    start_mib = peak_mib()
    encoder = build_encoder(preset).train()
    batch, times = room(n, encoder.config.in_channels), []
    for _ in range(2):
        start = time.process_time()
        encoder.zero_grad()
        encoder(batch).square().mean().backward()
        times.append(time.process_time() - start)
    return {"voxels_per_s": len(batch) / min(times), "mib": peak_mib() - start_mib}


def plain_forward(encoder: Encoder, batch: PointBatch) -> Tensor:
    """The encoder's result by upstream's algorithm."""
    own = Block.forward
    Block.forward = _plain_block  # type: ignore[method-assign]
    try:
        return encoder(batch)
    finally:
        Block.forward = own  # type: ignore[method-assign]


def _plain_block(block: Any, x: Tensor, level: Level, conv_input: Tensor | None = None) -> Tensor:
    conv, linear, norm = block.cpe
    x = x + norm(
        linear(plain_conv(x if conv_input is None else conv_input, conv.weight, conv.bias, level.neighbours(3)))
    )
    qkv = block.attn.qkv(block.norm1(x))
    patches = level.patches(block.index, block.patch_size)
    x = x + block.attn.proj(plain_attention(qkv, block.num_heads, patches.groups, patches.inverse))
    return x + block.mlp(block.norm2(x))


def plain_conv(x: Tensor, weight: Tensor, bias: Tensor, neighbours: Neighbours) -> Tensor:
    """Gather all k^3 neighbours of every row (zeros where there is none), then one product."""
    table = torch.full((len(x), neighbours.kernel_size**3), len(x), device=x.device)
    table[:, neighbours.centre] = torch.arange(len(x), device=x.device)
    for t in range(neighbours.kernel_size**3):
        out_rows, in_rows = neighbours.tap(t)
        table[out_rows, t] = in_rows
    gathered = torch.cat([x, x.new_zeros(1, x.shape[1])])[table]  # [N, k^3, C]
    return gathered.flatten(1) @ weight.flatten(1).T + bias


def plain_attention(qkv: Tensor, heads: int, groups: tuple[Tensor, ...], inverse: Tensor) -> Tensor:
    """softmax(q k^T) v with the logits [P, H, L, L] of all patches in memory."""
    results = []
    for rows in groups:
        q, k, v = qkv[rows].unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # [P, H, L, D] each
        attention = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
        results.append((attention @ v).transpose(1, 2).flatten(2).flatten(0, 1))
    return torch.cat(results)[inverse]


def scaling(sizes: list[int]) -> None:
    """Print time and memory over the number of voxels, one JSON object a line."""
    for preset in ("chorus-lite", "sonata"):
        for n in sizes:
            print(json.dumps({"preset": preset} | isolated(_forward, "tiled", n, preset)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("rows", "scaling", "blocks"), default="rows")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 60_000, 200_000, 600_000])
    arguments = parser.parse_args()
    if arguments.what == "scaling":
        scaling(arguments.sizes)
    else:
        for row in rows() if arguments.what == "rows" else out_of_core_rows():
            print(json.dumps(row.as_dict()))


if __name__ == "__main__":
    main()
