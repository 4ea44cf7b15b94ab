#!/bin/sh
# Check that Python reads what zotune writes: a folder made by `zotune train` must load with
# transformers, and transformers must give the scores that `zotune eval` gives, on SST-2.
#
# Run:  scripts/interop.sh MODEL_FOLDER RUN_FOLDER DATA_FOLDER [more options of zotune eval]
#   MODEL_FOLDER  the model that the training started from
#   RUN_FOLDER    what `zotune train` wrote
#   DATA_FOLDER   SST-2 with dev.tsv
# The comparison is made in float32: for a run stored in bf16 or f16 add --dtype f32.
#       scripts/interop.sh hub
#       scripts/interop.sh tokenizers
#       scripts/interop.sh tensorboard
# The second form checks the cache of the hub alone, which the first one checks at its end too: what zotune fetched, Python's
# huggingface_hub finds, and the other way round. The third one compares token ids and scores for each way to write a
# tokenizer, with small random models. The fourth one reads a run's event file with TensorBoard's own reader.
# Uses target/release/zotune. PYTHON names a Python that has torch and transformers; without it a
# virtual environment is made in a temporary folder and removed at the end.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
if [ "${1:-}" = hub ]; then
    . "$here/python_env.sh"
    "$PYTHON" "$here/interop_hub.py" --zotune "$zotune"
    exit
fi
if [ "${1:-}" = tokenizers ]; then
    . "$here/python_env.sh"
    "$PYTHON" "$here/interop_tokenizers.py" --zotune "$zotune"
    exit
fi
if [ "${1:-}" = tensorboard ]; then
    . "$here/python_env.sh"
    "$PYTHON" "$here/interop_events.py" --zotune "$zotune"
    exit
fi
if [ $# -lt 3 ]; then
    echo "usage: scripts/interop.sh hub|tokenizers|tensorboard, or scripts/interop.sh MODEL_FOLDER RUN_FOLDER DATA_FOLDER [options of zotune eval]" >&2
    exit 2
fi
model=$1 run=$2 data=$3
shift 3
. "$here/python_env.sh"

# An adapter goes on top of its model.
if [ -f "$run/adapter_config.json" ]; then set -- --model "$model" --adapter "$run" "$@"; else set -- --model "$run" "$@"; fi
"$zotune" eval --task sst2 --data "$data" --dump "$work/dump.jsonl" "$@"
"$PYTHON" "$here/interop.py" --model "$model" --run "$run" --data "$data" --dump "$work/dump.jsonl"
"$PYTHON" "$here/interop_hub.py" --zotune "$zotune"
