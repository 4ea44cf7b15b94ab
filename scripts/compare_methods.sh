#!/usr/bin/env bash
# Every method with its own config (configs/methods), several seeds, one after the other; then the table of docs/results.md.
#
#   scripts/compare_methods.sh OUT "METHOD METHOD ..."|all "SEED SEED ..." [further flags of zotune train]
#
# Runs that are finished are not begun again. One that another command, config or program has made is refused, not taken for this
# one's: OUT/METHOD-SEED.key says what made it. ZOTUNE names the program.
set -euo pipefail
. "$(dirname "$0")/key.sh"
out=$1 methods=$2 seeds=$3
shift 3
zotune=${ZOTUNE:-target/release/zotune}
[ "$methods" = all ] && methods=$(basename -s .toml -a configs/methods/*.toml)
folders=()
for seed in $seeds; do
    for method in $methods; do
        folder=$out/$method-$seed
        folders+=("$folder")
        command=("$zotune" -q train --config "configs/methods/$method.toml" --seed "$seed" "$@")
        made=$(key "${command[@]}")
        if [ -e "$folder/all_results.json" ]; then
            [ "$(cat "$folder.key" 2>/dev/null)" = "$made" ] && continue
            echo "$folder was made by another command, config or program; name another OUT, or remove it" >&2
            exit 2
        fi
        mkdir -p "$out"
        echo "$made" > "$folder.key"
        "${command[@]}" --output-dir "$folder" --overwrite-output-dir >/dev/null || echo "$folder failed" >&2
    done
done
python3 "$(dirname "$0")/table.py" "${folders[@]}"
