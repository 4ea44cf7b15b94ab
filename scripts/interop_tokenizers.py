#!/usr/bin/env python3
"""Compare `zotune eval` with transformers for each way to write a tokenizer.

For every folder of tests/fixtures/tokenizers.json a small random model of its type is made beside its tokenizer's files;
`zotune eval` scores rows of the built-in reviews with it; the token ids of the dump must be those of AutoTokenizer (with what its template
puts in front there once, and without what it puts behind), and each score that of the model in float32.

Run:  python scripts/interop_tokenizers.py --zotune target/release/zotune [--rows 6]
Needs torch and transformers. Exits with 1 where anything differs. `scripts/interop.sh tokenizers` runs it.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from make_tokenizers import contents

ROOT = Path(__file__).parent.parent
SMALL = dict(vocab_size=512, hidden_size=32, intermediate_size=48, ffn_dim=48, word_embed_proj_dim=32, num_hidden_layers=2, head_dim=8,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, sliding_window=512, pad_token_id=1)


def folder_of(case, place):
    for name, content in case["files"].items():
        (place / name).write_text(contents(name, content), encoding="utf-8")
    kind = case["files"]["config.json"]
    known = AutoConfig.for_model(kind["model_type"])
    config = AutoConfig.for_model(kind["model_type"], **{k: v for k, v in SMALL.items() if hasattr(known, k)})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    # Scores of an untrained model are all but equal.
    for weight in model.parameters():
        weight.data *= 3
    model.save_pretrained(place)
    written = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**written, **kind}))
    return model


def expected(tokenizer, text):
    body, whole = tokenizer(text, add_special_tokens=False).input_ids, tokenizer(text).input_ids
    at = next(k for k in range(len(whole)) if whole[k:k + len(body)] == body)
    return body if body[:at] == whole[:at] else whole[:at] + body


@torch.no_grad()
def score(model, ids, option_len):
    rows = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -option_len - 1:-1].log_softmax(-1)
    return rows.gather(1, torch.tensor(ids[-option_len:])[:, None]).mean().item()


def compare(case, zotune, rows, data):
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        model = folder_of(case, place)
        words = ["eval", "--model", ".", "--task", "reviews", "--num-eval", str(rows), "--dump", "dump.jsonl", "--dtype", "f32"]
        run = subprocess.run([zotune, *words], cwd=place, capture_output=True, text=True)
        if run.returncode:
            return [run.stderr.strip()], 0.0
        tokenizer = AutoTokenizer.from_pretrained(str(place))
        wrong, largest = [], 0.0
        for line in (place / "dump.jsonl").read_text().splitlines():
            row = json.loads(line)
            prompt = data[row["index"]].strip() + " It was"
            tokens = [expected(tokenizer, prompt + answer) for answer in (" terrible", " great")]
            if row["tokens"] != tokens:
                wrong.append(f"row {row['index']}: tokens {row['tokens'][0]}, transformers has {tokens[0]}")
            base = len(expected(tokenizer, prompt))
            for ids, ours in zip(tokens, row["scores"]):
                largest = max(largest, abs(ours - score(model, ids, len(ids) - base)))
        return wrong + ([f"a score is off by {largest:.2e}"] if not largest < 1e-4 else []), largest


def main():
    parser = argparse.ArgumentParser(description="Compare zotune eval with transformers for each way to write a tokenizer.")
    parser.add_argument("--zotune", default=str(ROOT / "target" / "release" / "zotune"))
    parser.add_argument("--rows", type=int, default=6)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    cases = json.loads((ROOT / "tests" / "fixtures" / "tokenizers.json").read_text())["cases"]
    data = [line.split("\t")[0] for line in (ROOT / "tasks" / "reviews" / "eval.tsv").read_text().splitlines()[1:]]
    failed = 0
    for case in cases:
        wrong, largest = compare(case, str(Path(args.zotune).resolve()), args.rows, data)
        failed += bool(wrong)
        print(f"{case['class']:20} {largest:8.1e}  {case['name']}" + "".join(f"\n    {w[:300]}" for w in wrong[:2]), flush=True)
    print(f"transformers {transformers.__version__}: {len(cases)} tokenizers, {failed} differ")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
