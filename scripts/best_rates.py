#!/usr/bin/env python3
"""Of a sweep over learning rates under a constant schedule: the lowest dev loss up to several lengths, for each rate. A run of T steps
is the beginning of a longer one, so one run answers for all lengths.

    scripts/best_rates.py runs/rates 100,600,2000
"""
import collections
import glob
import json
import sys

DIVERGED, NONE = float("inf"), float("nan")


def lowest(scores, length, planned):
    """The lowest dev loss up to a length; NONE if the run was to be shorter, or has no evaluation so early."""
    losses = [loss for step, loss in scores if 0 < step <= length]
    if length > planned or not losses:
        return NONE
    return min(losses) if scores[-1][0] >= length else DIVERGED


def said(loss, best):
    return "" if loss != loss else "diverged" if loss == DIVERGED else f"**{loss:.4f}**" if loss == best else f"{loss:.4f}"


sweep, lengths = sys.argv[1], [int(steps) for steps in sys.argv[2].split(",")]
groups = collections.defaultdict(lambda: collections.defaultdict(list))
for path in sorted(glob.glob(f"{sweep}/cells/*/trainer_log.jsonl")):
    folder = path.rsplit("/", 1)[0]
    config = json.load(open(f"{folder}/run.json"))["config"]
    group = folder.rsplit("/", 1)[1].split("-lr")[0]
    scores = [(line["step"], line["dev_loss"]) for line in map(json.loads, open(path)) if "dev_loss" in line]
    groups[group][config["learning_rate"]].append([lowest(scores, length, config["max_steps"]) for length in lengths])
for group, rates in groups.items():
    means = {rate: [sum(column) / len(column) for column in zip(*seeds)] for rate, seeds in sorted(rates.items())}
    print(f"\n| {group} | " + " | ".join(f"{length} steps" for length in lengths) + " |")
    print("|---" * (len(lengths) + 1) + "|")
    for rate, losses in means.items():
        best = [min((x for x in column if x == x), default=NONE) for column in zip(*means.values())]
        print(f"| {rate:g} | " + " | ".join(map(said, losses, best)) + " |")
