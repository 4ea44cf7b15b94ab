#!/bin/sh
# Attacks every reader with inputs made hostile, 100,000 of them (or as many as are asked for), each a pure function of its number, and
# tells by reader how many were refused, read as the original, or read as something else where no sum seals a file. It fails where one
# panics, takes 64 MiB more than the original or longer than thirty seconds, or is read as what was not written.
#
#   scripts/attack.sh [INPUTS [FIRST]]
#
# One reader alone: ZOTUNE_ATTACK_ONLY=pickle scripts/attack.sh 1000000
set -eu
cd "$(dirname "$0")/.."
ZOTUNE_ATTACKS="${1:-100000}" ZOTUNE_ATTACK_FROM="${2:-1000000}" ZOTUNE_TEST_ALONE=1 exec nice -n 10 cargo test --release --test suite \
    attack::whatever_is_read_it_is_the_original_or_an_error -- --exact --nocapture --test-threads=1
