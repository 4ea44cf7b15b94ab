#!/bin/sh
# Time zotune beside MeZO's own code's way of doing the same in PyTorch: the same model folder, rows, precision and threads, the
# two programs in turn, and the ratios at the end (the median of the rounds, and their range).
#
#   scripts/compare_mezo.sh step MODEL DATA   a training step: SST-2, or with TASK=copa COPA
#   scripts/compare_mezo.sh eval MODEL DATA   the evaluation split: one candidate at a time there, packed here
#   scripts/compare_mezo.sh load MODEL DATA   from the files to weights that have been touched
#
# MODEL is a folder in Hugging Face layout (scripts/make_random_opt.py makes OPTs of published sizes), DATA the task's. Settings, from
# the environment: ROUNDS (3), STEPS (5), DTYPE (f32; or bf16), THREADS (2, for both), BATCH (16), TASK (sst2).
# Uses target/release/zotune. PYTHON names a Python that has torch and transformers; without it a virtual environment is made in a
# temporary folder and removed at the end.
set -eu

if [ $# -ne 3 ]; then
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
what=$1 model=$2 data=$3
rounds=${ROUNDS:-3} steps=${STEPS:-5} dtype=${DTYPE:-f32} threads=${THREADS:-2} batch=${BATCH:-16} task=${TASK:-sst2}
here=$(cd "$(dirname "$0")" && pwd)
. "$here/python_env.sh"

case $what in step) method=mezo ;; eval) method=evaluate ;; load) method=load ;; *) echo "step, eval or load" >&2; exit 2 ;; esac
common="--model $model --task $task --data $data --dtype $dtype --threads $threads"
for round in $(seq "$rounds"); do
    # shellcheck disable=SC2086
    "$PYTHON" "$here/mezo_torch.py" $common --method "$method" --steps "$steps" --batch-size "$batch" > "$work/torch.$round.json"
    # shellcheck disable=SC2086
    case $what in
    step)
        "$zotune" train --quiet --json $common --learning-rate 1e-6 --max-steps "$((3 * steps))" --eval-steps 1000000 \
            --save-steps 0 --batch-size "$batch" --num-dev 16 --num-eval 16 --output-dir "$work/run" --overwrite-output-dir ;;
    eval) "$zotune" eval --quiet --json $common ;;
    load) "$zotune" eval --quiet --json $common --num-eval 1 ;;
    esac > "$work/zotune.$round.json"
done

"$PYTHON" - "$work" "$rounds" "$what" <<'PY'
import json, statistics, sys
work, rounds, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch = [json.load(open(f"{work}/torch.{r}.json")) for r in range(1, rounds + 1)]
ours = [json.load(open(f"{work}/zotune.{r}.json")) for r in range(1, rounds + 1)]
def show(name, theirs, mine):
    ratios = sorted(a / b for a, b in zip(theirs, mine))
    print(f"{name:<34}{statistics.median(theirs):>10.3f}{statistics.median(mine):>10.3f}"
          f"{statistics.median(ratios):>10.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
print(f"{'':<34}{'PyTorch':>10}{'zotune':>10}{'ratio':>10}")
if what == "step":
    show("seconds a step", [t["seconds_per_step"] for t in torch], [z["seconds_per_step"] for z in ours])
    show("seconds in the two forwards", [t["seconds_in_forwards"] for t in torch],
         [z["forward_seconds_per_step"] for z in ours])
    show("share outside of them", [1 - t["seconds_in_forwards"] / t["seconds_per_step"] for t in torch],
         [1 - z["forward_seconds_per_step"] / z["seconds_per_step"] for z in ours])
    show("peak resident set / weights", [t["peak_rss_bytes"] / t["weights_bytes"] for t in torch],
         [z["peak_rss_bytes"] / z["weights_bytes"] for z in ours])
elif what == "eval":
    show("seconds", [t["seconds"] for t in torch], [z["seconds"] for z in ours])
    show("accuracy", [t["accuracy"] for t in torch], [z["accuracy"] for z in ours])
else:
    show("seconds", [t["seconds"] for t in torch], [z["load_seconds"] for z in ours])
    show("GiB resident at most", [t["peak_rss_bytes"] / 2**30 for t in torch], [z["peak_rss_bytes"] / 2**30 for z in ours])
PY
