# Rooms with part-level truth, their lifting indices, and the comparison of fields on simulated masks.
#     sh evaluation/studies/granularity/run.sh OUT
set -eu
out=${1:?usage: sh evaluation/studies/granularity/run.sh OUT}
chorus-data synth --out "$out/rooms" --rooms 6 --val 0 --gaussians 8000 --views 16 --width 160 --height 120
chorus-stage1 run --manifest "$out/rooms/manifest.parquet" --store "$out/cache" \
    --teachers embedded:text --set width=160 --set height=120 --set cell=4
python -m evaluation.studies.granularity --manifest "$out/rooms/manifest.parquet" --store "$out/cache" --out "$out/study.json"
