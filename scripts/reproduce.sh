#!/bin/sh
# Runs the experiments of docs/results.md and writes their tables and pictures into it.
#
#   scripts/reproduce.sh [NAME ...]     all experiments, or these; stopped at any time, the same command goes on
#   scripts/reproduce.sh --quick        a part of them that needs no data, in runs/reproduce-quick; the document stays as it is
#   scripts/reproduce.sh --list         their names
#
# Settings, from the environment: DATA (data), a folder with SST-2, COPA and MNIST; MODELS (models), a folder with smollm2-135m; JOBS (2),
# cells at once; RUNS (runs/reproduce). An experiment whose data or model is missing is left out with a word. All of them should take
# about four hours on two cores that do nothing else (their training took ten hours in all, with two to four runs at a time).
set -eu
cd "$(dirname "$0")/.."

mode=run
case ${1:-} in
--quick) mode=quick; shift ;;
--list) mode=list; shift ;;
-*) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
data=${DATA:-data} models=${MODELS:-models} jobs=${JOBS:-2} wanted=" $* "
runs=${RUNS:-runs/reproduce}
[ "$mode" != quick ] || runs=${RUNS:-runs/reproduce-quick}
for name in $wanted; do
    [ "$mode" = list ] || scripts/reproduce.sh --list | grep -qx -- "$name" || { echo "there is no experiment $name; --list names them" >&2; exit 2; }
done
[ "$mode" = list ] || { cargo build --release && mkdir -p "$runs"; }

# The program, said before it runs. The document names the folders of data and models as a reader has them.
zotune() {
    echo "zotune $*" | sed "s|$data/|data/|g; s|$models/|models/|g; s| --jobs $jobs||; s| --output-dir $runs\$||; s|$runs/|runs/reproduce/|g" | tee -a "$runs/$name.command" >&2
    target/release/zotune --quiet "$@"
}

# begin NAME NEEDED: whether the experiment is wanted and has the folders that it needs ("-": none).
begin() {
    name=$1
    [ "$wanted" = "  " ] || case $wanted in *" $name "*) ;; *) return 1 ;; esac
    if [ "$mode" = list ]; then
        echo "$name"
        return 1
    fi
    for folder in $2; do
        [ "$folder" = - ] || [ -d "$folder" ] || { echo "$name is left out: there is no folder $folder" >&2; return 1; }
    done
    : > "$runs/$name.command"
}

end() {
    [ "$mode" = quick ] || scripts/write_results.py "$runs" docs/results.md
}

# lab NAME NEEDED OPTIONS...: a built-in experiment; it writes its report.
lab() {
    begin "$@" || return 0
    shift 2
    zotune lab "$name" "$@" --jobs "$jobs" --output-dir "$runs" > "$runs/$name.out"
    end
}

# sweep NAME NEEDED BASELINE FILE OPTIONS...: a sweep, and its report.
sweep() {
    begin "$@" || return 0
    baseline=$3
    shift 3
    zotune sweep "$@" --jobs "$jobs" --output-dir "$runs/$name" > "$runs/$name.out"
    zotune report "$runs/$name" --baseline "$baseline" >> "$runs/$name.out"
    end
}

# untrained NAME NEEDED OPTIONS...: what a model gives without training, one JSON file a way.
untrained() {
    begin "$@" || return 0
    shift 2
    mkdir -p "$runs/$name"
    for way in "eval" "eval --calibrate threshold" "eval --calibrate content-free" "eval --num-fewshot 8" "probe"; do
        file=$runs/$name/$(echo "$way" | tr -d ' ').json
        # shellcheck disable=SC2086
        [ -s "$file" ] || { zotune $way "$@" --json > "$file.part" && tail -n 1 "$file.part" > "$file" && rm "$file.part"; }
    done
    end
}

small=
[ "$mode" != quick ] || small="--seed 0 --max-steps 2000"
for function in quadratic cubic levy rosenbrock; do
    # shellcheck disable=SC2086
    lab "$function" - $small
done
# shellcheck disable=SC2086
lab moments - $small
lab least-squares -
lab vamo-ablations -
lab vamo-budget -
if [ "$mode" = quick ]; then
    sweep reviews - zo-rmsprop configs/sweeps/reviews.toml
    untrained untrained-reviews -
    echo "the reports are in $runs/*/report"
    exit
fi
lab mnist "$data/MNIST" --data "$data/MNIST"
lab mnist-cnn "$data/MNIST" --data "$data/MNIST"
lab attack "$data/MNIST" --data "$data/MNIST"
sst2="--task sst2 --data $data/SST-2" copa="--task copa --data $data/COPA" smollm2=$models/smollm2-135m
untrained untrained-reviews -
# shellcheck disable=SC2086
{
    untrained untrained-sst2 "$data/SST-2" --model opt-mini $sst2
    untrained untrained-smollm2 "$smollm2 $data/SST-2" --model "$smollm2" $sst2
    sweep papers "$data/SST-2" zo-rmsprop configs/sweeps/papers.toml $sst2
    sweep papers-lora "$data/SST-2" zo-rmsprop configs/sweeps/papers.toml $sst2 --lora-r 8
    sweep papers-copa "$data/COPA" zo-rmsprop configs/sweeps/papers.toml $copa
    sweep papers-copa-lora "$data/COPA" zo-rmsprop configs/sweeps/papers.toml $copa --lora-r 8
    sweep methods "$data/SST-2" zo-rmsprop configs/sweeps/methods.toml $sst2
    sweep r-adazo "$data/SST-2" zo-rmsprop configs/sweeps/r-adazo.toml $sst2
    sweep smollm2-papers "$smollm2 $data/SST-2" zo-rmsprop configs/sweeps/smollm2-papers.toml $sst2 --model "$smollm2"
    sweep smollm2-methods "$smollm2 $data/SST-2" zo-rmsprop configs/sweeps/smollm2-methods.toml $sst2 --model "$smollm2"
    sweep smollm2-r-adazo "$smollm2 $data/SST-2" zo-rmsprop configs/sweeps/smollm2-r-adazo.toml $sst2 --model "$smollm2"
    sweep smollm2-papers-lora "$smollm2 $data/SST-2" zo-rmsprop configs/sweeps/smollm2-papers.toml $sst2 --model "$smollm2" --lora-r 8
    sweep smollm2-papers-copa "$smollm2 $data/COPA" zo-rmsprop configs/sweeps/smollm2-papers.toml $copa --model "$smollm2"
}
