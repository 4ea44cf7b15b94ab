#!/usr/bin/env python3
"""Write an OPT of a published size with random weights, for timing and memory tests.

Weights are normal with sd 0.02, biases normal with sd 0.001, norms 1 and 0. The folder has the
layout of the facebook/opt repositories: config.json, the weights, and the tokenizer's vocab.json
and merges.txt copied from --tokenizer.

Run:  python scripts/make_random_opt.py OUT --tokenizer FOLDER [--shape 125m|350m|1.3b]
          [--dtype f32|f16|bf16] [--format safetensors|bin] [--seed N]
Needs numpy; with --format bin also torch.
"""

import argparse
import json
import math
import shutil
import struct
from pathlib import Path

import numpy as np

VOCAB, POSITIONS = 50272, 2048
#        hidden  layers heads ffn   embedding norm before
SHAPES = {
    "125m": (768, 12, 12, 3072, 768, True),
    "350m": (1024, 24, 16, 4096, 512, False),
    "1.3b": (2048, 24, 32, 8192, 2048, True),
}
DTYPES = {"f32": ("float32", "F32", 4), "f16": ("float16", "F16", 2), "bf16": ("bfloat16", "BF16", 2)}


def tensor_shapes(hidden, layers, ffn, embedding, norm_before):
    """Names (without the leading "model.") and shapes, in the order of the real files."""
    yield "decoder.embed_tokens.weight", (VOCAB, embedding)
    yield "decoder.embed_positions.weight", (POSITIONS + 2, hidden)
    if embedding != hidden:
        yield "decoder.project_out.weight", (embedding, hidden)
        yield "decoder.project_in.weight", (hidden, embedding)
    if norm_before:
        yield "decoder.final_layer_norm.weight", (hidden,)
        yield "decoder.final_layer_norm.bias", (hidden,)
    for i in range(layers):
        for part, rows, columns in [
            ("self_attn.k_proj", hidden, hidden), ("self_attn.v_proj", hidden, hidden),
            ("self_attn.q_proj", hidden, hidden), ("self_attn.out_proj", hidden, hidden),
            ("self_attn_layer_norm", hidden, 0), ("fc1", ffn, hidden), ("fc2", hidden, ffn),
            ("final_layer_norm", hidden, 0),
        ]:
            yield f"decoder.layers.{i}.{part}.weight", (rows, columns) if columns else (rows,)
            yield f"decoder.layers.{i}.{part}.bias", (rows,)


def values(name, shape, rng):
    if "norm" in name:
        return np.full(shape, 1.0 if name.endswith("weight") else 0.0, np.float32)
    return rng.standard_normal(shape, np.float32) * np.float32(0.02 if name.endswith("weight") else 0.001)


def as_dtype(x, dtype):
    """x in dtype as an array that can be written; bf16 rounds to nearest, ties to even."""
    if dtype == "bf16":
        bits = x.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return x.astype("<f2" if dtype == "f16" else "<f4")


def write_safetensors(path, shapes, dtype, rng):
    """One tensor at a time, so that a large model needs little memory."""
    _, code, width = DTYPES[dtype]
    header, start = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes:
        end = start + math.prod(shape) * width
        header["model." + name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes:
            as_dtype(values(name, shape, rng), dtype).tofile(file)


def write_bin(path, shapes, dtype, rng):
    import torch

    kind = getattr(torch, DTYPES[dtype][0])
    torch.save({name: torch.from_numpy(values(name, shape, rng)).to(kind) for name, shape in shapes}, path)


def main():
    parser = argparse.ArgumentParser(description="Write an OPT with random weights.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with vocab.json and merges.txt")
    parser.add_argument("--shape", choices=SHAPES, default="125m")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--format", choices=["safetensors", "bin"], default="safetensors")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    hidden, layers, heads, ffn, embedding, norm_before = SHAPES[args.shape]
    config = {
        "activation_dropout": 0.0, "activation_function": "relu", "architectures": ["OPTForCausalLM"],
        "attention_dropout": 0.0, "bos_token_id": 2, "do_layer_norm_before": norm_before, "dropout": 0.1,
        "eos_token_id": 2, "ffn_dim": ffn, "hidden_size": hidden, "init_std": 0.02, "layerdrop": 0.0,
        "max_position_embeddings": POSITIONS, "model_type": "opt", "num_attention_heads": heads,
        "num_hidden_layers": layers, "pad_token_id": 1, "prefix": "</s>", "torch_dtype": DTYPES[args.dtype][0],
        "use_cache": True, "vocab_size": VOCAB, "word_embed_proj_dim": embedding,
    }
    tokenizer = {
        "tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_prefix_space": False, "errors": "replace",
        "bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>",
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (args.out / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n")
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(args.tokenizer / name, args.out / name)

    shapes = list(tensor_shapes(hidden, layers, ffn, embedding, norm_before))
    rng = np.random.default_rng(args.seed)
    if args.format == "bin":
        write_bin(args.out / "pytorch_model.bin", shapes, args.dtype, rng)
    else:
        write_safetensors(args.out / "model.safetensors", shapes, args.dtype, rng)
    print(f"{sum(math.prod(shape) for _, shape in shapes):,} parameters in {args.out}")


if __name__ == "__main__":
    main()
