"""The released Chorus at full size (random weights) on a cloud with the levels of a real splat.

`lang` of every voxel, and a query of five phrases, against the naive form: the encoder in one pass with its levels side
by side, then the projector over all voxels (nn.Module calls, torch's own products). The forward pass alone against
upstream's algorithm (bench_encoder.py). Seconds are CPU seconds on one thread; both sides run in turn in one process,
several times: a ratio is the median, its spread the least and the greatest.

python -m tests.bench official                                           the rows, at 1/40 of the splat's voxels
python -m tests.bench.bench_official --scale 0.1                         the same at another size
python -m tests.bench.bench_official --memory-only --scale 1 --depth 1   memory alone; with one block per stage
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from evaluation.features import StudentScene
from evaluation.relevancy import relevancy, scene_relevancy
from stage2_distill.encode import VoxelFeatures, encode_cloud
from stage2_distill.encoder import build_encoder
from stage2_distill.encoder.products import fast_products, onednn_is_faster
from stage2_distill.inference.outputs import outputs
from stage2_distill.release import published_teachers
from stage2_distill.split_projector import voxels_at_once
from stage2_distill.student import Student, StudentTeacher
from stage2_distill.tta import TtaFeatures
from tests.bench.bench_encoder import isolated, peak_mib, plain_forward
from tests.bench.measure import Rounds
from tests.bench.row import Row
from tests.bench.splat_levels import splat_cloud

COMMAND = "python -m tests.bench official"
SCALE, REPEATS, TILE = 1 / 40, 3, 4096
NAIVE = "one pass, then the projector over all voxels"
CPU = torch.device("cpu")


def rows(scale: float = SCALE) -> list[Row]:
    """Rows of `make bench`."""
    times = isolated(measure, scale, REPEATS)
    ours, naive = (isolated(memory, kind, scale, 0) for kind in ("ours", "naive"))
    library = "oneDNN" if onednn_is_faster() else "torch's BLAS"
    return [
        _row("encoder/official-forward", f"voxels per s of CPU ({library})", times, "forward", "upstream's algorithm",
             times["voxels"]),
        _row("encoder/official-lang", "s of CPU", times, "lang", NAIVE),
        _row("query/official", "s of CPU, five phrases", times, "query", NAIVE),
        Row("query/official-deviation", times["deviation"], "of relevancy", times["deviation"], COMMAND),
        Row("encoder/official-memory", ours["mib"], "MiB beyond weights", ours["mib"] / naive["mib"], COMMAND, NAIVE,
            naive["mib"]),
    ]  # fmt: skip


def _row(name: str, unit: str, times: dict[str, float], what: str, baseline: str, amount: float = 0) -> Row:
    """Of the seconds of both sides, or of `amount` per second of them (then larger ratios are better)."""
    ours, other = (tuple(times[f"{what}-{side}-{i}"] for i in range(REPEATS)) for side in ("ours", "other"))
    row = Rounds(ours, other).row(name, unit, COMMAND, baseline, times_faster=bool(amount))
    if not amount or row.baseline_value is None:
        return row
    return replace(row, value=amount / row.value, baseline_value=amount / row.baseline_value)


def released(depth: int = 0) -> Student:
    """The released Chorus's architecture with random weights; depth: blocks of every stage, 0 = as released."""
    torch.manual_seed(0)
    encoder = build_encoder("chorus-3dgs", **({"enc_depths": (depth,) * 5} if depth else {}))
    teachers = published_teachers(encoder.out_channels)
    return Student(encoder, {name: StudentTeacher.model_validate(t) for name, t in teachers.items()}).eval()


@dataclass
class _Clock:
    """Seconds of CPU since the last look."""

    last: float = 0.0

    def lap(self) -> float:
        now = time.process_time()
        taken, self.last = now - self.last, now
        return taken


@torch.inference_mode()
def measure(scale: float, repeats: int) -> dict[str, float]:
    """Seconds of CPU of every part by either side, in turn."""
    student = released()
    batch = splat_cloud(scale, student.encoder.config.in_channels)
    text = F.normalize(torch.randn(5, 1152), dim=-1)
    result = {"voxels": float(len(batch)), "deviation": 0.0}
    clock = _Clock()
    for i in range(repeats):
        clock.lap()
        latent = encode_cloud(student.encoder, batch, None)
        forward = clock.lap()
        (lang,) = outputs(student, ["lang"])
        with fast_products():
            for block in latent.blocks(voxels_at_once(CPU)):
                lang.finish(lang.of_latent(block))
        result[f"lang-ours-{i}"] = forward + clock.lap()
        scene = StudentScene(student, "lang", TtaFeatures((VoxelFeatures(latent, torch.arange(len(batch))),)))
        asked = scene_relevancy(scene, len(batch), text[:1].numpy(), text[1:].numpy())
        result[f"query-ours-{i}"], result[f"forward-ours-{i}"] = forward + clock.lap(), forward
        del latent, scene
        clock.lap()
        wide = student.encoder(batch)
        forward = clock.lap()
        for part in wide.split(TILE):
            F.normalize(student.project("lang", part), dim=-1)
        result[f"lang-other-{i}"] = forward + clock.lap()
        parts = (student.project("lang", part).numpy() for part in wide.split(TILE))
        plain = np.concatenate([relevancy(part, text[:1].numpy(), text[1:].numpy()) for part in parts])
        result[f"query-other-{i}"] = forward + clock.lap()
        result["deviation"] = max(result["deviation"], float(np.abs(asked - plain).max()))
        del wide
        clock.lap()
        plain_forward(student.encoder, batch)
        result[f"forward-other-{i}"] = clock.lap()
    return result


@torch.inference_mode()
def memory(kind: str, scale: float, depth: int) -> dict[str, float]:
    """MiB at the peak beyond the weights, of `lang` of every voxel that is handed on as it is made."""
    student = released(depth)
    batch = splat_cloud(scale, student.encoder.config.in_channels)
    before = peak_mib()
    if kind == "ours":
        (lang,) = outputs(student, ["lang"])
        latent = encode_cloud(student.encoder, batch, None)
        with fast_products():
            for block in latent.blocks(voxels_at_once(CPU)):
                lang.finish(lang.of_latent(block))
    else:
        for part in student.encoder(batch).split(TILE):
            F.normalize(student.project("lang", part), dim=-1)
    return {"mib": peak_mib() - before, "voxels": float(len(batch))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=SCALE)
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--memory-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.memory_only:
        for kind in ("ours", "naive"):
            found = isolated(memory, kind, arguments.scale, arguments.depth)
            print(json.dumps({"kind": kind, "depth": arguments.depth} | found), flush=True)
        return
    for row in rows(arguments.scale):
        print(json.dumps(row.as_dict()))


if __name__ == "__main__":
    main()
