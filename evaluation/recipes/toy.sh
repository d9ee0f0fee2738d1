#!/bin/sh
# The recipe chorus-3dgs at toy size: ScanNet's raw layout -> scenes -> caches -> language and DINO -> PE-Spatial joins -> the
# release's checkpoint -> results. Every setting that is not given here is the recipe's own; teachers are the embedded ones.
# Killed or interrupted, it goes on where it stopped.
set -eu
OUT=${1:-runs/recipe-toy}
HERE=$(dirname "$0")
MANIFEST=$OUT/scenes/manifest.parquet

say() { printf '\n== %s\n' "$*"; }

# "a=1 b=2" -> --set a=1 --set b=2
set_all() { for pair in $1; do printf -- '--set %s ' "$pair"; done; }

ROOM="--gaussians 2000 --views 6 --width 96 --height 72 --mesh-step 0.15 --seed 7"
VIEWS=$(set_all "width=96 height=72 cell=8 n_views=6 rasterizer=cpu calibration.views=2")
SIZE=$(set_all "epochs=3 batch_size=2 projector_hidden=32 threads=1 checkpoint_every=1 data.max_voxels=2000 data.chunks.min_rows=500 data.workers=0")
ENCODER=$(set_all "encoder.overrides.enc_channels=[16,32] encoder.overrides.enc_num_head=[1,2] encoder.overrides.upcast=1")

say "Rooms in the raw layout of ScanNet, and what a reader makes of them"
chorus-data synth --out "$OUT/raw" --layout scannet --rooms 5 --val 1 $ROOM
chorus-data prepare scannet --root "$OUT/raw" --out "$OUT/scenes"

say "Stage 1"
chorus-stage1 run --manifest "$MANIFEST" --store "$OUT/store" --config "$HERE/chorus-3dgs/stage1.toml" $VIEWS \
  --teachers lang=embedded:text --teachers dino=embedded:dense --teachers pe_spatial=embedded:objects

say "Stage 2: language and DINO, then PE-Spatial joins"
chorus-stage2 train --store "$OUT/store" --manifest "$MANIFEST" --split train --config "$HERE/chorus-3dgs/train.toml" \
  $SIZE $ENCODER --set teachers.lang.labels.start=1 --out "$OUT/joint"
chorus-stage2 train --store "$OUT/store" --manifest "$MANIFEST" --split train --config "$HERE/chorus-3dgs/join.toml" \
  $SIZE --set student="$OUT/joint" --out "$OUT/student"
chorus-stage2 export "$OUT/student" --layout release --out "$OUT/chorus.pth"

say "Evaluation"
cat > "$OUT/matrix.toml" <<MATRIX
[encoders]
chorus = "$OUT/chorus.pth"
[datasets.scannet]
manifest = "$MANIFEST"
stores = ["$OUT/store"]
[tasks.zero-shot]
command = "zero-shot"
options = { label-space = "scannet20" }
[tasks.linear]
command = "finetune"
options = { config = "$HERE/probes/linear.toml", label-space = "scannet20", set = ["steps=6", "batch_size=2", "max_points=3000", "checkpoint_every=2", "threads=1"] }
MATRIX
chorus-eval batch --config "$OUT/matrix.toml" --out "$OUT/results"
