#!/usr/bin/env python3
"""Compare a dump of `zotune eval` on SST-2 with what transformers (and peft) compute from the same folder.

Checks that the folder of `zotune train` loads without missing or unexpected weights and has the
shapes of the model it started from, or with peft on top of that model where it holds an adapter; that prompts, token ids and labels of the first rows agree;
that each candidate's score (mean log-probability of the answer, float32, one candidate at a time)
agrees within --tolerance; and that the prediction is the first largest score.

Run:  python scripts/interop.py --model FOLDER --run FOLDER --data FOLDER --dump FILE [--rows 32]
Needs torch, transformers, and peft for adapters. Exits with 1 where anything differs. scripts/interop.sh makes the dump.
"""

import argparse
import json
import logging
import os
import sys
import warnings

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

ANSWERS = [" terrible", " great"]


def encoder(folder):
    """text -> token ids, whatever the folder's tokenizer is; an end token that its template puts behind is left off."""
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def encode(text):
        ids, body = tokenizer(text).input_ids, tokenizer(text, add_special_tokens=False).input_ids
        behind = next((n for n in range(len(ids) - len(body) + 1) if ids[: len(ids) - n][-len(body):] == body), 0)
        return ids[: len(ids) - behind]

    return encode


@torch.no_grad()
def score(model, ids, option_len):
    rows = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -option_len - 1 : -1].log_softmax(-1)
    return rows.gather(1, torch.tensor(ids[-option_len:])[:, None]).mean().item()


def load_model(start, folder, wrong):
    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if loading[what]:
            wrong.append(f"loading: {what}: {list(loading[what])[:5]}")
    before, after = start.state_dict(), model.state_dict()
    if {k: v.shape for k, v in before.items()} != {k: v.shape for k, v in after.items()}:
        wrong.append("the weights have other names or shapes than those of the model the training started from")
    else:
        moved = sum(not torch.equal(before[k], after[k]) for k in before)
        print(f"weights: {len(after)} tensors, {moved} differ from the starting model")
    return model


def load_adapter(start, folder, wrong):
    import peft

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(start, folder)
    wrong += [f"loading: {w.message}" for w in said if "missing" in str(w.message) or "unexpected" in str(w.message)]
    stored = load_file(f"{folder}/adapter_model.safetensors")
    held = peft.get_peft_model_state_dict(model)
    if {k: v.shape for k, v in stored.items()} != {k: v.shape for k, v in held.items()}:
        wrong.append("the adapter's tensors have other names or shapes than those that peft asks for")
    elif any(not torch.equal(stored[k], held[k]) for k in stored):
        wrong.append("the adapter's tensors are others after peft has read them")
    print(f"adapter: {len(stored)} tensors, read by peft {peft.__version__}")
    return model


def main():
    parser = argparse.ArgumentParser(description="Compare a dump of zotune eval with transformers, on SST-2.")
    parser.add_argument("--model", required=True, help="the model the training started from")
    parser.add_argument("--run", required=True, help="the folder written by zotune train")
    parser.add_argument("--data", required=True, help="the folder with dev.tsv")
    parser.add_argument("--dump", required=True, help="the JSON lines written by zotune eval")
    parser.add_argument("--rows", type=int, default=32, help="how many rows of the dump to compare")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    wrong = []

    start = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    if os.path.exists(f"{args.run}/adapter_config.json"):
        model = load_adapter(start, args.run, wrong)
    else:
        model = load_model(start, args.run, wrong)
    model.eval()
    encode, encode_start = encoder(args.run), encoder(args.model)

    with open(f"{args.data}/dev.tsv", encoding="utf-8") as file:
        data = [line.rstrip("\n").split("\t") for line in file][1:]
    with open(args.dump, encoding="utf-8") as file:
        dump = [json.loads(line) for line in file][: args.rows]
    if not dump:
        wrong.append("the dump is empty")

    largest = 0.0
    for row in dump:
        where = f"row {row['index']}"
        sentence, label = data[row["index"]]
        prompt = sentence.strip() + " It was"
        texts = [prompt + answer for answer in ANSWERS]
        tokens = [encode(text) for text in texts]
        if row["label"] != int(label):
            wrong.append(f"{where}: label {row['label']}, the file has {label}")
        if tokens != [encode_start(text) for text in texts]:
            wrong.append(f"{where}: the tokenizer of the run folder and the starting model's differ")
        if row["tokens"] != tokens:
            wrong.append(f"{where}: tokens {row['tokens']}, transformers has {tokens}")
            continue
        if row["prediction"] != row["scores"].index(max(row["scores"])):
            wrong.append(f"{where}: prediction {row['prediction']} for scores {row['scores']}")
        if len(row["scores"]) != len(tokens):
            wrong.append(f"{where}: {len(row['scores'])} scores for {len(tokens)} candidates")
        base = len(encode(prompt))
        for ids, ours in zip(tokens, row["scores"]):
            theirs = score(model, ids, len(ids) - base)
            largest = max(largest, abs(ours - theirs))
            if not abs(ours - theirs) <= args.tolerance:
                wrong.append(f"{where}: score {ours}, transformers has {theirs:.6f}")

    print(f"transformers {transformers.__version__}, torch {torch.__version__}: {len(dump)} rows, "
          f"largest difference of a score {largest:.2e}")
    for line in wrong[:20]:
        print(line, file=sys.stderr)
    print(f"{len(wrong)} differences" if wrong else "all agree")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
