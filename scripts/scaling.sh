#!/bin/sh
# How a ZO-SGD step grows with the model and with the batch: a Markdown row for each model folder and batch size.
#
#   scripts/scaling.sh DATA MODEL...      DATA: SST-2. Settings, from the environment: BATCHES ("4 8 16 32 64"), STEPS (5), DTYPE (f32),
#                                         THREADS (2)
#
# scripts/make_random_opt.py makes OPTs of published sizes; opt-mini is built in. Needs as much disk as the largest model.
set -eu

if [ $# -lt 2 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
data=$1
shift
zotune=$(dirname "$0")/../target/release/zotune
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

echo "| model | parameters | batch | tokens a forward | seconds a step | forwards | tokens/s | ns a parameter and token | peak MiB | / weights |"
echo "|---|---|---|---|---|---|---|---|---|---|"
for model in "$@"; do
    for batch in ${BATCHES:-4 8 16 32 64}; do
        "$zotune" train --quiet --json --model "$model" --task sst2 --data "$data" --dtype "${DTYPE:-f32}" \
            --threads "${THREADS:-2}" --batch-size "$batch" --max-steps "${STEPS:-5}" --eval-steps 1000000 --save-steps 0 \
            --num-dev 16 --num-eval 16 --learning-rate 1e-7 --output-dir "$work/run" --overwrite-output-dir > "$work/results.json"
        python3 - "$model" "$batch" "$work" <<'PY'
import json, sys
model, batch, work = sys.argv[1:]
with open(f"{work}/results.json") as file:
    r = json.load(file)
d = r["forecast"]["forecast"]["num_weights"]
seconds, tokens = r["seconds_per_step"], r["tokens_per_step"]
print(f"| {model.rstrip('/').split('/')[-1]} | {d / 1e6:,.1f} M | {batch} | {tokens / 2:.0f} | {seconds:.3f} | "
      f"{100 * r['forward_seconds_per_step'] / seconds:.0f} % | {tokens / seconds:,.0f} | {1e9 * seconds / tokens / d:.4f} | "
      f"{r['peak_rss_bytes'] / 2**20:,.0f} | {r['peak_rss_bytes'] / r['weights_bytes']:.2f} |")
PY
    done
done
