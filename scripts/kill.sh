#!/bin/sh
# Kills a training process with SIGKILL at random moments, inside checkpoints and inside evaluations, resumes it each time, and
# compares every end with the run that nobody disturbed: weights, moments, losses, scores, log. 100 kills (or as many as are
# asked for) of zo-sgd, r-adazo and vamo, each with and without checkpoints.
#
#   scripts/kill.sh [KILLS]
set -eu
cd "$(dirname "$0")/.."
ZOTUNE_KILLS="${1:-100}" cargo test --release --test suite \
    survival::a_run_that_is_killed_a_hundred_times_ends_as_if_nothing_had_happened -- --exact --nocapture
