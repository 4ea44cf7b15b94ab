#!/usr/bin/env bash
# Every method with its own config (configs/methods), several seeds, one after the other; then the table of docs/results.md.
#
#   scripts/compare_methods.sh OUT "METHOD METHOD ..."|all "SEED SEED ..." [further flags of zotune train]
#
# Runs that are finished are not begun again. ZOTUNE names the program.
set -euo pipefail
out=$1 methods=$2 seeds=$3
shift 3
zotune=${ZOTUNE:-target/release/zotune}
[ "$methods" = all ] && methods=$(basename -s .toml -a configs/methods/*.toml)
for seed in $seeds; do
    for method in $methods; do
        folder=$out/$method-$seed
        [ -e "$folder/all_results.json" ] && continue
        "$zotune" -q train --config "configs/methods/$method.toml" --seed "$seed" --output-dir "$folder" \
            --overwrite-output-dir "$@" >/dev/null || echo "$folder failed" >&2
    done
done
python3 scripts/table.py "$out"/*/
