#!/usr/bin/env bash
# Tunes a method's learning rate on the dev split: one short run a rate, and a table of what came of them.
#
#   scripts/tune.sh OPTIMIZER STEPS "RATE RATE ..." [further flags of zotune train]
#
# The best dev loss of each run is what counts; the evaluation split is not looked at. ZOTUNE names the program, OUT the
# folder that runs go to.
set -euo pipefail
optimizer=$1 steps=$2 rates=$3
shift 3
zotune=${ZOTUNE:-target/release/zotune}
out=${OUT:-runs/tune}
for rate in $rates; do
    folder=$out/$optimizer-$rate
    if [ ! -e "$folder/all_results.json" ]; then
        "$zotune" -q train --optimizer "$optimizer" --max-steps "$steps" --eval-steps $(((steps + 3) / 4)) --learning-rate "$rate" \
            --seed 100 --num-eval 16 --output-dir "$folder" --overwrite-output-dir "$@" >/dev/null || continue
    fi
    python3 - "$folder" "$optimizer" "$rate" <<'PY'
import json, sys
folder, optimizer, rate = sys.argv[1:]
log = [json.loads(line) for line in open(f"{folder}/trainer_log.jsonl")]
dev = [line for line in log if "eval_loss" in line]
best = min(dev, key=lambda line: line["eval_loss"])
print(f"{optimizer:<16} lr {rate:<8} best dev loss {best['eval_loss']:.4f} ({100 * best['eval_accuracy']:.1f} %) at step"
      f" {best['step']}; last {dev[-1]['eval_loss']:.4f}; {log[-1]['function_evaluations']} evaluations", flush=True)
PY
done
