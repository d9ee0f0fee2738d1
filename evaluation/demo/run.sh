#!/bin/sh
# The whole main job on a laptop: rooms -> stage 1 -> stage 2 -> evaluation -> report. Every line is a command you can run yourself.
# Killed or interrupted, it goes on where it stopped.
set -eu
OUT=${1:-runs/demo}
HERE=$(dirname "$0")
STARTED=$(date +%s)
MANIFEST=$OUT/rooms/manifest.parquet

say() { printf '\n== %s\n' "$*"; }

say "Synthetic rooms (seeds that no shipped weight has seen)"
chorus-data synth --out "$OUT/rooms" --rooms 88 --val 8 --seed 1 --workers 2

say "Stage 1: render, ask the teachers, cache"
chorus-stage1 run --manifest "$MANIFEST" --store "$OUT/cache" --config "$HERE/stage1.toml" --workers 2

say "Stage 2: train the encoder from the cache alone"
PROCESSES=$(python -c 'import os; print(min(2, os.cpu_count() or 1))')
OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node "$PROCESSES" -m stage2_distill.cli train \
  --manifest "$MANIFEST" --split train --store "$OUT/cache" --config "$HERE/stage2.toml" --out "$OUT/student"

say "Evaluation on rooms that training never saw"
chorus-eval zero-shot --manifest "$MANIFEST" --split val --store "$OUT/cache" --encoder "$OUT/student" --tta-rotations 5 --out "$OUT/zero_shot.json"
chorus-eval probe --manifest "$MANIFEST" --train-split train --split val --store "$OUT/cache" --encoder "$OUT/student" --points-per-scene 256 --out "$OUT/probe.json"

say "Report"
chorus-eval report --run "$OUT" --out "$OUT/report" --seconds "$(($(date +%s) - STARTED))"
