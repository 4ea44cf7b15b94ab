#!/bin/sh
# The whole suite, or the tests that are named, once for each instruction set that this machine has: each run is held to one by ZOTUNE_SIMD.
set -eu
cd "$(dirname "$0")/.."

cargo build --release
for machine in baseline avx2 avx512 avx512-bf16 amx; do
    export ZOTUNE_SIMD=$machine
    # The program refuses what the machine has not.
    if ! said=$(target/release/zotune tasks 2>&1); then
        echo "$machine is left out: $said"
        continue
    fi
    echo "$machine"
    cargo test --release -- "$@"
done
