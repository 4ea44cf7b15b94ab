#!/bin/sh
# Kills a training process with SIGKILL at random moments, inside checkpoints, inside evaluations and while it goes to where the run
# stood, resumes it each time, and compares every end with the run that nobody disturbed: weights, moments, losses, scores, log. 100
# kills (or as many as are asked for) of zo-sgd, r-adazo and vamo, each with and without checkpoints; and as many of a replay, of a merge
# and of an export, after each of which what they write is whole or not there.
#
#   scripts/kill.sh [KILLS]
set -eu
cd "$(dirname "$0")/.."
for test in \
    survival::a_run_that_is_killed_a_hundred_times_ends_as_if_nothing_had_happened \
    ties::a_replay_or_merge_that_is_killed_leaves_all_or_nothing; do
    ZOTUNE_KILLS="${1:-100}" cargo test --release --test suite "$test" -- --exact --nocapture
done
