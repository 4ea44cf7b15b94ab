"""Makes a table of methods from run folders: what each reached, and what it took.

    python3 scripts/table.py RUN_FOLDER [RUN_FOLDER ...]

Folders that differ in their seed alone are one row: the mean over the seeds, and behind +- half
of the spread between the largest and the smallest. Loss and accuracy are those of the weights with the least loss on dev, on
the evaluation split. A backward pass counts as two function evaluations, a look at the whole training set as the mini-batches
that it is worth.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

MIB = 2**20


def read(folder):
    run = json.loads((folder / "run.json").read_text())["config"]
    results = json.loads((folder / "all_results.json").read_text())
    return run, results


def spread(values, digits):
    mean, half = sum(values) / len(values), (max(values) - min(values)) / 2
    return f"{mean:.{digits}f}" + (f" +- {half:.{digits}f}" if len(values) > 1 else "")


def row(runs):
    config = runs[0][0]
    results = [result for _, result in runs]
    of = lambda key: [result[key] for result in results]
    # Backward passes are counted by micro-batch, evaluations by mini-batch.
    parts = max(1, -(-config["batch_size"] // config["micro_batch_size"]))
    evaluations = [r["function_evaluations"] + 2 * r["backwards"] / parts for r in results]
    parts = [
        ("weights", "weights_bytes"),
        ("state", "optimizer_state_bytes"),
        ("snapshot", "snapshot_bytes"),
        ("gradients", "gradient_peak_bytes"),
        ("activations", "activation_peak_bytes"),
        ("rest", "rest_bytes"),
    ]
    memory = [f"{max(of(key)) / MIB:.0f}" if max(of(key)) >= MIB / 2 else "-" for _, key in parts]
    return [
        f"`{config['optimizer']}`" + (" bf16 state" if config.get("state_dtype") == "bf16" else ""),
        f"{config['learning_rate']:.3g}",
        str(results[0]["steps"]),
        f"{sum(evaluations) / len(evaluations):.0f}",
        spread(of("train_loss"), 3),
        spread(of("eval_loss"), 3),
        spread([100 * x for x in of("eval_accuracy")], 1),
        f"{sum(of('train_seconds')) / len(runs):.0f}",
        f"{max(of('peak_rss_bytes')) / MIB:.0f}",
        *memory,
    ]


def main():
    groups = defaultdict(list)
    for folder in map(Path, sys.argv[1:]):
        if not (folder / "all_results.json").exists():
            print(f"{folder} has no all_results.json: left out", file=sys.stderr)
            continue
        config, results = read(folder)
        key = json.dumps({k: v for k, v in config.items() if k not in ("seed", "output_dir", "overwrite_output_dir")})
        groups[key].append((config, results))
    if not groups:
        sys.exit("no finished run among them")
    untrained = next(iter(groups.values()))[0][1]
    print(
        f"Untrained: loss {untrained['untrained_eval_loss']:.3f}, accuracy {100 * untrained['untrained_eval_accuracy']:.1f} %."
        f" Runs a row: {sorted({len(runs) for runs in groups.values()})}.\n"
    )
    header = ["method", "lr", "steps", "evaluations", "train loss", "eval loss", "accuracy %", "s", "peak MiB"]
    header += ["weights", "state", "snapshot", "gradients", "activations", "rest"]
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for runs in groups.values():
        print("| " + " | ".join(row(runs)) + " |")


main()
