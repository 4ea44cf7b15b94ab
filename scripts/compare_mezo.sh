#!/bin/sh
# Time a ZO-SGD step of zotune beside MeZO's own step in PyTorch: the same model folder, task, batch size, precision and
# threads, the two programs in turn, and the ratios of medians at the end.
#
# Run:  scripts/compare_mezo.sh MODEL_FOLDER SST2_FOLDER [ROUNDS=3] [STEPS=5] [f32|bf16]
#   MODEL_FOLDER  an OPT in Hugging Face layout; scripts/make_random_opt.py makes one of 125m's shape
# Uses target/release/zotune. PYTHON names a Python that has torch and transformers; without it a virtual environment is
# made in a temporary folder and removed at the end. THREADS (default 2) go to both.
set -eu

if [ $# -lt 2 ]; then
    echo "usage: scripts/compare_mezo.sh MODEL_FOLDER SST2_FOLDER [ROUNDS=3] [STEPS=5] [f32|bf16]" >&2
    exit 2
fi
model=$1 data=$2 rounds=${3:-3} steps=${4:-5} dtype=${5:-f32}
threads=${THREADS:-2}
here=$(cd "$(dirname "$0")" && pwd)
. "$here/python_env.sh"

for round in $(seq "$rounds"); do
    "$PYTHON" "$here/mezo_torch.py" --model "$model" --data "$data" --steps "$steps" --threads "$threads" \
        --dtype "$dtype" > "$work/torch.$round.json"
    "$zotune" train --quiet --json --model "$model" --task sst2 --data "$data" --dtype "$dtype" --threads "$threads" \
        --learning-rate 1e-6 --max-steps "$((3 * steps))" --eval-steps 1000000 --num-dev 16 --num-eval 16 \
        --output-dir "$work/run.$round" > "$work/zotune.$round.json"
done

"$PYTHON" - "$work" "$rounds" <<'PY'
import json, statistics, sys
work, rounds = sys.argv[1], int(sys.argv[2])
torch = [json.load(open(f"{work}/torch.{r}.json")) for r in range(1, rounds + 1)]
ours = [json.load(open(f"{work}/zotune.{r}.json")) for r in range(1, rounds + 1)]
def show(name, theirs, mine, unit=""):
    ratios = sorted(a / b for a, b in zip(theirs, mine))
    print(f"{name:<34}{statistics.median(theirs):>10.2f}{statistics.median(mine):>10.2f}{unit:>4}"
          f"   PyTorch / zotune: median {statistics.median(ratios):.2f} (of {rounds} rounds, {ratios[0]:.2f} to {ratios[-1]:.2f})")
print(f"{'':<34}{'PyTorch':>10}{'zotune':>10}")
show("seconds a step", [t["seconds_per_step"] for t in torch], [z["seconds_per_step"] for z in ours], "s")
show("seconds in the two forwards", [t["seconds_in_forwards"] for t in torch], [z["forward_seconds_per_step"] for z in ours], "s")
show("peak resident set / weights", [t["peak_rss_bytes"] / t["weights_bytes"] for t in torch],
     [z["peak_rss_bytes"] / z["weights_bytes"] for z in ours])
PY
