#!/usr/bin/env python3
"""Time MeZO's own training step in PyTorch, as a number to compare with; or its evaluation, or the loading of a model.

The step is the one of the MeZO authors (arXiv 2305.17333). SST-2: both candidates of each example in one
left-padded batch, full logits, mean log-probability of the option tokens, cross-entropy over the candidates.
COPA: the right candidates in one left-padded batch, cross-entropy on their option tokens (teacher forcing).
Weights are moved by +1, -2, +1 times eps z and then updated, z drawn again from the seed in each of the four
passes, one torch.normal per tensor. The evaluation scores one candidate at a time, as theirs does.

Run:  python scripts/mezo_torch.py --model FOLDER --data FOLDER [--method METHOD] [--task sst2|copa]
          [--steps 5] [--batch-size 16] [--threads 2] [--dtype f32|bf16] [--eps 1e-3] [--lr 1e-6] [--in-place]
METHOD is mezo (the step); sgd or adamw, PyTorch's own first-order step on the same batch and loss, to compare
memory with; evaluate, on all rows of the evaluation split or the first --rows of it; or load.
FOLDER of the data holds SST-2's train.tsv and dev.tsv or COPA's train.jsonl and val.jsonl. Needs torch,
transformers, numpy. Prints one JSON object.
"""

import argparse
import json
import logging
import resource
import time

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def sst2_rows(folder, split):
    """Prompt, answers, label of each row."""
    with open(f"{folder}/{'train' if split == 'train' else 'dev'}.tsv", encoding="utf-8") as file:
        for line in list(file)[1:]:
            sentence, label = line.rstrip("\n").split("\t")
            yield sentence.strip() + " It was", [" terrible", " great"], int(label)


def copa_rows(folder, split):
    with open(f"{folder}/{'train' if split == 'train' else 'val'}.jsonl", encoding="utf-8") as file:
        for row in map(json.loads, file):
            joint = "so" if row["question"] == "effect" else "because"
            choices = [row["choice1"], row["choice2"]]
            lowered = [c if c.split()[0] == "I" else c[0].lower() + c[1:] for c in choices]
            premise = row["premise"].strip().removesuffix(".")
            yield f"{premise} {joint}", [" " + choice for choice in lowered], row["label"]


ROWS = {"sst2": sst2_rows, "copa": copa_rows}
TRAINING_ROWS = {"sst2": 1000, "copa": 300}


def drawn(task, folder, split, count, tokenizer, begin):
    """MeZO's draw of rows, each as [(tokens, option_len) of each candidate], label."""
    rows = list(ROWS[task](folder, split))
    np.random.seed(0)
    order = np.random.permutation(len(rows))[:count]

    def tokens(text):
        ids = tokenizer(text).input_ids
        return ids if begin is None or ids[0] == begin else [begin] + ids

    for i in order:
        prompt, answers, label = rows[i]
        base = len(tokens(prompt))
        candidates = [tokens(prompt + answer) for answer in answers]
        yield [(ids, len(ids) - base) for ids in candidates], label


def make_batch(examples, pad, teacher_forcing):
    """Ids, attention mask and option mask (all [rows, length], padded on the left), and labels (None in teacher forcing)."""
    if teacher_forcing:
        rows = [candidates[label] for candidates, label in examples]
    else:
        rows = [row for candidates, _ in examples for row in candidates]
    length = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), length), pad)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    option = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, (tokens, option_len) in enumerate(rows):
        ids[i, length - len(tokens):] = torch.tensor(tokens)
        mask[i, length - len(tokens):] = 1
        option[i, length - option_len:] = True
    return ids, mask, option, None if teacher_forcing else torch.tensor([label for _, label in examples])


def loss_of(model, batch):
    ids, mask, option, labels = batch
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    if labels is None:
        return torch.nn.functional.cross_entropy(logits[:, :-1].float()[option[:, 1:]], ids[:, 1:][option[:, 1:]])
    log_probs = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    picked = log_probs.gather(-1, ids[:, 1:, None]).squeeze(-1)
    option = option[:, 1:]
    scores = (picked * option).sum(-1) / option.sum(-1)
    return torch.nn.functional.cross_entropy(scores.view(len(labels), -1), labels)


def add_noise(parameters, seed, scale, in_place=False):
    """parameter += scale * z, z drawn from the seed; the same z in every call with this seed."""
    torch.manual_seed(seed)
    for p in parameters:
        z = torch.normal(mean=0, std=1, size=p.size(), dtype=p.dtype)
        if in_place:
            p.add_(z, alpha=scale)
        else:
            p.data = p.data + scale * z


def first_order(args, model, parameters, examples, pad):
    """Steps of PyTorch's optimizer, gradients set to None between them as it does by default."""
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[args.method]
    optimizer = kind(parameters, lr=args.lr)
    steps = []
    for step in range(args.steps):
        rows = [examples[(step * args.batch_size + i) % len(examples)] for i in range(args.batch_size)]
        begin = time.perf_counter()
        optimizer.zero_grad()
        loss_of(model, make_batch(rows, pad, args.task == "copa")).backward()
        optimizer.step()
        steps.append(time.perf_counter() - begin)
    weights = sum(p.numel() * p.element_size() for p in parameters)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({
        "made_with": f"transformers {transformers.__version__}, torch {torch.__version__}", "method": args.method,
        "dtype": args.dtype, "threads": args.threads, "batch_size": args.batch_size,
        "seconds_per_step": round(float(np.median(steps)), 4), "steps_seconds": [round(s, 4) for s in steps],
        "peak_rss_bytes": peak, "weights_bytes": weights, "peak_over_weights": round(peak / weights, 2),
    }))


@torch.no_grad()
def evaluate(args, model, examples):
    """One candidate at a time, the first largest mean log-probability of the option tokens."""
    right, begin = 0, time.perf_counter()
    for candidates, label in examples:
        scores = []
        for ids, option_len in candidates:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
            log_probs = torch.log_softmax(logits.float(), dim=-1)
            picked = log_probs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
            scores.append(picked[-option_len:].mean().item())
        right += scores.index(max(scores)) == label
    seconds = time.perf_counter() - begin
    print(json.dumps({"method": "evaluate", "dtype": args.dtype, "threads": args.threads, "rows": len(examples),
                      "accuracy": right / len(examples), "seconds": round(seconds, 3)}))


def main():
    parser = argparse.ArgumentParser(description="Time MeZO's own step in PyTorch.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--eps", type=float, default=1e-3)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--method", choices=["mezo", "sgd", "adamw", "evaluate", "load"],
                        default="mezo")
    parser.add_argument("--task", choices=["sst2", "copa"], default="sst2")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--in-place", action="store_true", help="add the noise in place, unlike the authors")
    args = parser.parse_args()

    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    begin = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()
    if args.method == "load":
        # Mapped files are read when they are touched.
        checksum = sum(float(p.sum()) for p in model.parameters())
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"method": "load", "dtype": args.dtype, "seconds": round(seconds, 3), "checksum": checksum,
                          "peak_rss_bytes": peak}))
        return
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    opt = model.config.model_type == "opt"
    bos = tokenizer.bos_token_id if opt else None
    if args.method == "evaluate":
        return evaluate(args, model, list(drawn(args.task, args.data, "eval", args.rows, tokenizer, bos)))
    examples = list(drawn(args.task, args.data, "train", TRAINING_ROWS[args.task], tokenizer, bos))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    parameters = list(model.parameters())  # a tied head counts once

    if args.method != "mezo":
        return first_order(args, model, parameters, examples, pad)
    steps, cpu, forwards, losses, padded = [], [], [], [], []
    seeds = np.random.default_rng(0)
    with torch.no_grad():
        for step in range(args.steps):
            rows = [examples[(step * args.batch_size + i) % len(examples)] for i in range(args.batch_size)]
            seed = int(seeds.integers(1_000_000_000))
            begin, cpu_begin = time.perf_counter(), time.process_time()
            batch = make_batch(rows, pad, args.task == "copa")
            spent = 0.0
            values = []
            for scale in (1.0, -2.0):
                add_noise(parameters, seed, scale * args.eps, args.in_place)
                start = time.perf_counter()
                values.append(loss_of(model, batch).item())
                spent += time.perf_counter() - start
            add_noise(parameters, seed, args.eps, args.in_place)
            grad = (values[0] - values[1]) / (2 * args.eps)
            add_noise(parameters, seed, -args.lr * grad, args.in_place)
            steps.append(time.perf_counter() - begin)
            cpu.append(time.process_time() - cpu_begin)
            forwards.append(spent)
            losses.append(values)
            padded.append(batch[0].numel())

    print(json.dumps({
        "made_with": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "task": args.task, "dtype": args.dtype, "threads": args.threads, "batch_size": args.batch_size,
        "in_place": args.in_place,
        "seconds_per_step": round(float(np.median(steps)), 4),
        "seconds_in_forwards": round(float(np.median(forwards)), 4),
        "steps_seconds": [round(s, 4) for s in steps],
        "steps_cpu_seconds": [round(s, 4) for s in cpu],  # far below wall x threads: the machine was shared
        "forwards_seconds": [round(s, 4) for s in forwards],
        "padded_tokens_per_forward": padded,
        "losses": [[round(v, 6) for v in pair] for pair in losses],
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "weights_bytes": sum(p.numel() * p.element_size() for p in parameters),
    }))


if __name__ == "__main__":
    main()
