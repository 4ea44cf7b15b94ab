#!/usr/bin/env bash
# Tunes a method's learning rate on the dev split: one short run a rate, and a table of what came of them.
#
#   scripts/tune.sh OPTIMIZER STEPS "RATE RATE ..." [further flags of zotune train]
#
# The best dev loss of each run is what counts; the evaluation split is not looked at. ZOTUNE names the program, OUT the
# folder that runs go to, each under a key of its whole command, the files that it names, and the program: a run that is finished is not
# begun again, and no other's numbers are taken for its.
set -euo pipefail
. "$(dirname "$0")/key.sh"
optimizer=$1 steps=$2 rates=$3
shift 3
zotune=${ZOTUNE:-target/release/zotune}
out=${OUT:-runs/tune}
for rate in $rates; do
    command=("$zotune" -q train --optimizer "$optimizer" --max-steps "$steps" --eval-steps $(((steps + 3) / 4)) --learning-rate "$rate"
        --seed 100 --num-eval 16 "$@")
    folder=$out/$optimizer-$rate-$(key "${command[@]}")
    if [ ! -e "$folder/all_results.json" ]; then
        "${command[@]}" --output-dir "$folder" --overwrite-output-dir >/dev/null || { echo "lr $rate failed" >&2; continue; }
    fi
    python3 - "$folder" "$optimizer" "$rate" <<'PY'
import json, sys
folder, optimizer, rate = sys.argv[1:]
log = [json.loads(line) for line in open(f"{folder}/trainer_log.jsonl")]
dev = [line for line in log if "dev_loss" in line]
best = min(dev, key=lambda line: line["dev_loss"])
share = f" ({100 * best['dev_accuracy']:.1f} %)" if "dev_accuracy" in best else ""
print(f"{optimizer:<16} lr {rate:<8} least dev loss {best['dev_loss']:.4f}{share} at step"
      f" {best['step']}; last {dev[-1]['dev_loss']:.4f}; {log[-1]['function_evaluations']} evaluations", flush=True)
PY
done
