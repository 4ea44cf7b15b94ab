#!/bin/sh
# Whether a change has changed any result: writes down what short runs of every kind come to, the SHA-256 of their weights and of the
# values in their trajectories, and every result that is no time, no memory and no place; and compares what two programs come to.
#
#   scripts/same_bits.sh FILE [PROGRAM]      writes FILE, which is not there, with PROGRAM (else target/release/zotune)
#   scripts/same_bits.sh FILE [PROGRAM]      again, where it is there: compares, and fails where a line differs
#
# The runs: what `zotune train` does alone; each method for 60 steps on opt-mini; LoRA, a prefix, the last block alone; bf16 and f16; each
# kind of direction; and with ZOTUNE_GGUF=FILE four steps of that model. A machine compares with itself alone: another instruction set
# adds up in another order.
set -eu
cd "$(dirname "$0")/.."
file="${1:?a file to write or to compare with}"
program="${2:-target/release/zotune}"
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT

# What a run has come to, in a line. Of the trajectory the payloads of its records: its header says which program wrote it, and checksums
# build on that.
told() {
    python3 - "$1" "$place/run" <<'PYTHON'
import hashlib, json, pathlib, struct, sys
name, run = sys.argv[1], pathlib.Path(sys.argv[2])
sha = lambda data: hashlib.sha256(data).hexdigest()[:16]
log = (run / "trajectory.bin").read_bytes()
at, values = 16 + struct.unpack_from("<I", log, 8)[0], hashlib.sha256()
while at < len(log):
    words = struct.unpack_from("<I", log, at)[0] >> 8
    values.update(log[at : at + 4 + 4 * words])
    at += 8 + 4 * words
weights = [sha(path.read_bytes()) for path in sorted(run.glob("*.safetensors"))]
left_out = ("seconds", "rss", "rest", "forecast", "scratch", "activation", "trajectory_bytes", "output_dir")
results = json.loads((run / "all_results.json").read_text())
results = {key: value for key, value in sorted(results.items()) if not any(word in key for word in left_out)}
print(name, *weights, values.hexdigest()[:16], json.dumps(results))
PYTHON
}

run() {
    name="$1"
    shift
    nice "$program" train --quiet --output-dir "$place/run" --overwrite-output-dir "$@" > "$place/said" 2>&1 || {
        cat "$place/said"
        echo "$name: the run failed" >&2
        exit 1
    }
    told "$name" >> "$place/now"
}

run default
short="--model opt-mini --task reviews --batch-size 8 --max-steps 60 --eval-steps 20 --num-dev 50 --num-eval 50"
for config in configs/methods/*.toml; do
    method="$(basename "$config" .toml)"
    run "$method" $short --optimizer "$method"
done
for method in vamo sgd; do run "$method last:1" $short --optimizer "$method" --fo-params last:1; done
run "vamo svrg period" $short --optimizer vamo --snapshot-steps 7
run lora $short --lora-r 4
run "lora r-adazo" $short --lora-r 4 --optimizer r-adazo
run prefix $short --prefix-tuning --num-prefix 4
run "last block" $short --tune last:1
for dtype in bf16 f16; do
    run "$dtype" $short --dtype "$dtype"
    run "$dtype r-adazo" $short --dtype "$dtype" --optimizer r-adazo --state-dtype bf16
done
run sphere $short --distribution sphere --num-directions 3
run signs $short --distribution rademacher
run "one side" $short --perturbation-mode one-side --num-directions 2 --fresh-batch-per-direction
[ -z "${ZOTUNE_GGUF:-}" ] || run gguf --model "$ZOTUNE_GGUF" --task reviews --batch-size 2 --max-steps 4 --eval-steps 4 --num-dev 4 --num-eval 4 --save-steps 0

if [ -e "$file" ]; then
    diff "$file" "$place/now" && echo "$(wc -l < "$file") runs: the same bits"
else
    cp "$place/now" "$file"
    echo "$file: $(wc -l < "$file") runs"
fi
