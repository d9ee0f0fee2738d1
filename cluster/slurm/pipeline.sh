#!/bin/sh
# The whole way on Slurm: standardisers -> stage 1 as an array -> enough scenes done? -> stage 2 -> evaluation's matrix.
# Every job waits for the one before it. Logs and the jobs' numbers go to OUT/jobs; status.sh tells how it stands.
#
#   MANIFEST=m.parquet STORE=/data/cache CONFIG=recipe.toml MATRIX=matrix.toml OUT=/data/run sh cluster/slurm/pipeline.sh
#
# The matrix names the student as OUT/student. Given again, everything goes on where it stopped.
# SHARDS, NODES, TASKS: of the array, of stage 2, of the evaluation. AT_LEAST: share of the scenes that stage 2 needs.
# STAGE1: more options of chorus-stage1 run. STAGE2, of train. SBATCH: options of every job, such as --partition=gpu.
# SBATCH_STAGE1, SBATCH_STAGE2, SBATCH_EVALUATE: of these alone. All are split at spaces.
# shellcheck disable=SC2086
set -eu
: "${MANIFEST:?}" "${STORE:?}" "${OUT:?}" "${MATRIX:?}"
here=$(dirname "$0")
mkdir -p "$OUT/jobs"
printf 'manifest\t%s\nstore\t%s\n' "$MANIFEST" "$STORE" > "$OUT/jobs/pipeline.tsv"

# submit NAME LOG SBATCH_OPTIONS... : one job; its number goes to $id and into the list
submit() {
    name=$1
    log=$2
    shift 2
    id=$(sbatch --parsable --kill-on-invalid-dep=yes --job-name="chorus-$name" --output="$OUT/jobs/$log" ${SBATCH:-} "$@")
    id=${id%%;*}
    printf 'job\t%s\t%s\n' "$name" "$id" >> "$OUT/jobs/pipeline.tsv"
    echo "$name: job $id"
}

scenes="--manifest $MANIFEST --store $STORE"
submit calibrate calibrate-%j.log ${SBATCH_STAGE1:-} --wrap "exec chorus-stage1 calibrate $scenes ${STAGE1:-}"
submit stage1 stage1-%A-%a.log --dependency="afterok:$id" --array="1-${SHARDS:-8}" ${SBATCH_STAGE1:-} \
    "$here/stage1-array.sbatch" $scenes ${STAGE1:-}
# afterany: some scenes may fail, and this job decides whether they are too many.
submit stage1-complete stage1-complete-%j.log --dependency="afterany:$id" \
    --wrap "exec chorus-stage1 status $scenes --at-least ${AT_LEAST:-0.95}"
submit stage2 stage2-%j.log --dependency="afterok:$id" --nodes="${NODES:-1}" ${SBATCH_STAGE2:-} \
    "$here/stage2.sbatch" train $scenes ${CONFIG:+--config "$CONFIG"} --out "$OUT/student" ${STAGE2:-}
submit evaluate evaluate-%j.log --dependency="afterok:$id" --ntasks="${TASKS:-4}" ${SBATCH_EVALUATE:-} \
    "$here/dask.sbatch" chorus-eval batch --config "$MATRIX" --out "$OUT/evaluation"
