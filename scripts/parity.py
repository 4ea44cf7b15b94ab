#!/usr/bin/env python3
"""Compare zotune's ZO-SGD with MeZO's step in PyTorch over many seeds: do their final losses have the same distribution?

The PyTorch side is the step of scripts/mezo_torch.py (arXiv 2305.17333): torch.normal numbers, SST-2's 1,000 training rows in a new
order each epoch, a constant rate. The zotune side is `zotune train` with the same rows, rate, batch size and number of steps. Both give the
mean training loss of the last tenth of the steps, and the loss of the last weights on the evaluation rows. The p-values are those of the
Kolmogorov-Smirnov and the Mann-Whitney test.

Run:  python scripts/parity.py FOLDER --model FOLDER --data FOLDER [--rates 1e-5,1e-4] [--seeds 20] [--steps 600] [--threads 2]
          [--only torch|zotune]
FOLDER, the first one, keeps one JSON file a run; the same command goes on where it was stopped. Needs torch, transformers, numpy, scipy,
and target/release/zotune.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np
import torch
import transformers
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from mezo_torch import TRAINING_ROWS, add_noise, drawn, make_batch

HERE = pathlib.Path(__file__).resolve().parent
BATCH, EPS = 16, 1e-3


def loss_of(model, batch):
    """The loss of mezo_torch.py's function of this name, with the logits of the answers alone: three fifths of the time."""
    ids, mask, option, labels = batch
    option = option[:, 1:]
    states = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1][option]
    picked = torch.log_softmax(model.lm_head(states), dim=-1).gather(-1, ids[:, 1:][option][:, None]).squeeze(-1)
    row = torch.arange(len(ids))[:, None].expand_as(option)[option]
    scores = torch.zeros(len(ids)).index_add_(0, row, picked) / option.sum(-1)
    return torch.nn.functional.cross_entropy(scores.view(len(labels), -1), labels)


@torch.no_grad()
def torch_run(args, rate, seed):
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    bos = tokenizer.bos_token_id if model.config.model_type == "opt" else None
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    train = list(drawn("sst2", args.data, "train", TRAINING_ROWS["sst2"], tokenizer, bos))
    rows = list(drawn("sst2", args.data, "eval", 1000, tokenizer, bos))
    parameters = list(model.parameters())
    random, order, losses = np.random.default_rng(seed), [], []
    for _ in range(args.steps):
        if len(order) < BATCH:
            order += random.permutation(len(train)).tolist()
        batch = make_batch([train[order.pop(0)] for _ in range(BATCH)], pad, False)
        z, values = int(random.integers(1_000_000_000)), []
        for scale in (1.0, -2.0):
            add_noise(parameters, z, scale * EPS, in_place=True)
            values.append(loss_of(model, batch).item())
        add_noise(parameters, z, EPS, in_place=True)
        add_noise(parameters, z, -rate * (values[0] - values[1]) / (2 * EPS), in_place=True)
        losses.append(sum(values) / 2)
    of_rows = [rows[i:i + 32] for i in range(0, len(rows), 32)]
    eval_loss = sum(loss_of(model, make_batch(part, pad, False)).item() * len(part) for part in of_rows) / len(rows)
    return {"train_loss": float(np.mean(losses[-(-9 * args.steps // 10):])), "eval_loss": eval_loss}


def zotune_run(args, rate, seed, place):
    program, run = HERE.parent / "target/release/zotune", place.with_suffix(".run")
    common = ["--quiet", "--json", "--task", "sst2", "--data", args.data, "--threads", str(args.threads)]
    words = [program, "train", "--model", args.model, "--learning-rate", str(rate), "--seed", str(seed), "--max-steps", str(args.steps),
             "--eval-steps", str(args.steps), "--num-dev", "16", "--num-eval", "16", "--stop-if-diverged=false", "--output-dir", run,
             "--overwrite-output-dir"]
    trained = json.loads(subprocess.run(words + common, check=True, capture_output=True).stdout)
    # All rows, not as few as the run scored.
    last = [program, "eval", "--model", run / f"checkpoint-{args.steps}", "--num-eval", "1000"]
    scored = json.loads(subprocess.run(last + common, check=True, capture_output=True).stdout)
    subprocess.run(["rm", "-rf", run], check=True)
    return {"train_loss": trained["train_loss"], "eval_loss": scored["loss"]}


def main():
    parser = argparse.ArgumentParser(description="Compare zotune's ZO-SGD with MeZO's step in PyTorch over many seeds.")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rates", default="1e-5,1e-4")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["torch", "zotune"])
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)

    sides = [args.only] if args.only else ["torch", "zotune"]
    places = lambda side, rate: [args.folder / f"{side}-{rate}-{args.steps}-{seed}.json" for seed in range(args.seeds)]
    for seed in range(args.seeds):
        for rate in args.rates.split(","):
            for side in sides:
                place = places(side, rate)[seed]
                if not place.exists():
                    run = torch_run if side == "torch" else lambda *of: zotune_run(*of, place)
                    place.write_text(json.dumps(run(args, float(rate), seed)))
                    print(place, place.read_text(), file=sys.stderr, flush=True)

    for rate in args.rates.split(","):
        for what in ("train_loss", "eval_loss"):
            both = [[json.loads(p.read_text())[what] for p in places(side, rate) if p.exists()] for side in ("torch", "zotune")]
            if min(map(len, both)) < 2:
                continue
            said = ", ".join(f"{side} {np.mean(x):.4f} +- {np.std(x, ddof=1):.4f} ({len(x)} seeds)" for side, x in zip(("torch", "zotune"), both))
            ks, mw = stats.ks_2samp(*both).pvalue, stats.mannwhitneyu(*both).pvalue
            print(f"rate {rate}, {what}: {said}; p = {ks:.2f} (Kolmogorov-Smirnov), {mw:.2f} (Mann-Whitney)")


if __name__ == "__main__":
    main()
