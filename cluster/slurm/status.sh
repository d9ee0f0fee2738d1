#!/bin/sh
# How a pipeline stands: sh cluster/slurm/status.sh OUT
set -eu
OUT=${1:?give the OUT of pipeline.sh}
list="$OUT/jobs/pipeline.tsv"
[ -f "$list" ] || { echo "error: $list: no such file; it is written by cluster/slurm/pipeline.sh" >&2; exit 2; }
tab=$(printf '\t')
value() { sed -n "s/^$1$tab//p" "$list"; }

echo "jobs:"
sed -n "s/^job$tab//p" "$list" | while IFS="$tab" read -r name id; do
    # squeue knows the waiting and the running; scontrol remembers for some minutes; sacct, where there is one, for ever
    state=$(squeue --noheader --jobs="$id" --format=%T 2> /dev/null | sort | uniq -c | sed 's/^ *//' | tr '\n' ' ')
    [ -n "$state" ] || state=$(scontrol show job "$id" 2> /dev/null | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p' | sort | uniq -c |
        sed 's/^ *//' | tr '\n' ' ')
    [ -n "$state" ] || state=$(sacct --noheader --allocations --jobs="$id" --format=State 2> /dev/null | sort | uniq -c |
        sed 's/^ *//' | tr '\n' ' ')
    printf '  %-16s %-8s %s\n' "$name" "$id" "${state:-unknown}"
done

echo "stage 1:"
chorus-stage1 status --manifest "$(value manifest)" --store "$(value store)" 2>&1 | sed 's/^/  /'

echo "stage 2:"
last=$(grep -s '"kind": "step"' "$OUT/student/log.jsonl" | tail -n 1 |
    sed 's/.*"step": \([0-9]*\), "loss": \([^,]*\),.*"epoch": \([^,]*\),.*/step \1, epoch \3, loss \2/' || true)
if [ -f "$OUT/student/model.safetensors" ] && [ -f "$OUT/student/train.json" ]; then saved=", a student is saved"; else saved=""; fi
echo "  ${last:-not begun}$saved"

echo "evaluation:"
cells=$(find "$OUT/evaluation/cells" -name '*.key' 2> /dev/null | wc -l)
if [ -f "$OUT/evaluation/results.md" ]; then written=", table in $OUT/evaluation/results.md"; else written=""; fi
echo "  $cells cells done$written"
