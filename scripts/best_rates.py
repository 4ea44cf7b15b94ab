#!/usr/bin/env python3
"""Of a sweep over learning rates under a constant schedule: the lowest dev loss up to several lengths, for each rate. A run of T steps
is the beginning of a longer one, so one run answers for all lengths.

    scripts/best_rates.py runs/rates 100,600,2000
"""
import collections
import glob
import json
import sys

sweep, lengths = sys.argv[1], [int(steps) for steps in sys.argv[2].split(",")]
groups = collections.defaultdict(lambda: collections.defaultdict(list))
for path in sorted(glob.glob(f"{sweep}/cells/*/trainer_log.jsonl")):
    folder = path.rsplit("/", 1)[0]
    config = json.load(open(f"{folder}/run.json"))["config"]
    group = folder.rsplit("/", 1)[1].split("-lr")[0]
    scores = [(line["step"], line["dev_loss"]) for line in map(json.loads, open(path)) if "dev_loss" in line]
    reached = lambda length: scores[-1][0] >= length
    lowest = [min(loss for step, loss in scores if 0 < step <= length) if reached(length) else float("inf") for length in lengths]
    groups[group][config["learning_rate"]].append(lowest)
for group, rates in groups.items():
    means = {rate: [sum(column) / len(column) for column in zip(*seeds)] for rate, seeds in sorted(rates.items())}
    print(f"\n| {group} | " + " | ".join(f"{length} steps" for length in lengths) + " |")
    print("|---" * (len(lengths) + 1) + "|")
    for rate, losses in means.items():
        best = [min(column) for column in zip(*means.values())]
        print(f"| {rate:g} | " + " | ".join(f"**{x:.4f}**" if x == b else f"{x:.4f}" if x < 1e9 else "diverged" for x, b in zip(losses, best)) + " |")
