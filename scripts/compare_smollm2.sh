#!/usr/bin/env bash
# Every method on SmolLM2-135M for about 60 evaluations of a batch of 8: 64 training sentences of SST-2, three seeds, one thread;
# then the table of docs/results.md. The rates are those of configs/methods, moved by what ZO-SGD, ZO-AdaMM, R-AdaZO and SGD
# wanted here (scripts/tune.sh).
#
#   scripts/compare_smollm2.sh OUT MODEL DATA "SEED SEED ..." ["METHOD METHOD ..."]
set -euo pipefail
out=$1 model=$2 data=$3 seeds=$4 only=${5:-}
while read -r method rate steps more; do
    [ -n "$only" ] && [[ " $only " != *" $method "* ]] && continue
    # shellcheck disable=SC2086
    scripts/compare_methods.sh "$out" "$method" "$seeds" --model "$model" --data "$data" --batch-size 8 --num-train 64 --num-dev 64 \
        --num-eval 128 --threads 1 --learning-rate "$rate" --max-steps "$steps" --eval-steps $(((steps + 1) / 2)) $more >/dev/null
done <<'METHODS'
zo-sgd 6e-5 30
r-adazo 3e-4 30
zo-adamm 1e-3 30
sgd 1e-3 20
vamo 1e-3 12
adamw 2e-5 20
svrg 1e-3 8
mezo-svrg 2e-5 20 --snapshot-steps 10
meazo 1e-3 30
zo-sign 5e-4 30
zo-sign-scalar 7e-4 30
zo-sgd-momentum 3e-6 30
zo-rmsprop 1e-3 30
zo-adam 1e-3 30
zo-conservative 6e-5 12
METHODS
python3 scripts/table.py "$out"/*/
