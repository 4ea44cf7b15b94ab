#!/bin/sh
# What training a part or an adapter saves: seconds a step, memory by part and what is left on the disk, for the whole model, its
# last two blocks, LoRA and a prefix, under three methods.
#
# Run:  scripts/adapters.sh MODEL_FOLDER SST2_FOLDER [more options of zotune train]
# Uses target/release/zotune. STEPS (default 20) steps a run; prints a table in Markdown. Seconds are medians over the steps.
set -eu

if [ $# -lt 2 ]; then
    echo "usage: scripts/adapters.sh MODEL_FOLDER SST2_FOLDER [options of zotune train]" >&2
    exit 2
fi
model=$1 data=$2
shift 2
zotune=$(cd "$(dirname "$0")/.." && pwd)/target/release/zotune
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

echo "| trained | method | trained weights | seconds a step | of them walks | peak RSS, MiB | weights | state | gradients | activations | on the disk, KiB |"
echo "|---|---|---|---|---|---|---|---|---|---|---|"
for method in zo-sgd r-adazo adamw; do
    for what in "" "--tune last:2" "--lora-r 8" "--prefix-tuning"; do
        # shellcheck disable=SC2086
        "$zotune" train --model "$model" --task sst2 --data "$data" --optimizer $method $what --max-steps "${STEPS:-20}" \
            --learning-rate 1e-6 --num-dev 16 --num-eval 16 --eval-steps 100000 --save-steps 0 --output-dir "$work/run" \
            --overwrite-output-dir --quiet --json "$@" > "$work/results.json"
        python3 - "$work" "$method" "$what" <<'PY'
import json, os, sys
work, method, what = sys.argv[1:]
run = f"{work}/run"
r = json.load(open(f"{work}/results.json"))
weights = next(f"{run}/{f}" for f in ("adapter_model.safetensors", "model.safetensors") if os.path.exists(f"{run}/{f}"))
mib = lambda key: f"{r[key] / 2**20:.0f}" if r[key] >= 2**20 else f"{r[key] / 2**20:.1f}" if r[key] else "-"
count = r["trained_weights"]
print(f"| {what or 'all'} | `{method}` | {count:,} | {r['seconds_per_step']:.3f} | {r['walk_seconds_per_step']:.3f} | "
      f"{mib('peak_rss_bytes')} | {mib('weights_bytes')} | {mib('optimizer_state_bytes')} | {mib('gradient_peak_bytes')} | "
      f"{mib('activation_peak_bytes')} | {os.path.getsize(weights) / 1024:,.0f} |")
PY
    done
done
