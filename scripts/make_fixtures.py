#!/usr/bin/env python3
"""Make the small files the tests compare with.

Writes, below tests/fixtures/ of this repository:
  <model>/                  tiny random OPT, LLaMA, Qwen and Gemma models in Hugging Face layout,
                            in the file formats and config spellings found in the wild;
  logits.json               what transformers computes for them, in float32 from the
                            stored weights, one sequence at a time, without padding;
  numpy_permutations.json   np.random.seed(s); np.random.permutation(n);
  rows*.parquet, rows.jsonl the same rows as pyarrow writes them and as JSON lines.

Run:  python scripts/make_fixtures.py [FOLDER]        (default: tests/fixtures)
Needs torch, transformers 5, safetensors, numpy, pyarrow. The same versions give the same bytes.
"""

import copy
import hashlib
import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from transformers import (AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig,
                          GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, Qwen2Config, Qwen2ForCausalLM,
                          Qwen3Config, Qwen3ForCausalLM)

VOCAB = 64
OPT = dict(vocab_size=VOCAB, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=4,
           max_position_embeddings=40, dropout=0.0)
LLAMA = dict(vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
             max_position_embeddings=64)
# The wavelengths of the four rotary frequencies are 6, 63, 628 and 6283 tokens, so this scaling
# leaves the first, blends the second and divides the others by 8.
ROPE3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
             original_max_position_embeddings=128)
LLAMA3 = dict(LLAMA, intermediate_size=18, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
              max_position_embeddings=1024, attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
              rope_parameters=dict(ROPE3, rope_theta=10000.0))


RELATIVE = dict(LLAMA, num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0)
MODELS = ("opt-tiny", "opt-350m-tiny", "opt-untied-tiny", "llama-tiny", "llama3-tiny", "llama-new-tiny",
          "qwen2-tiny", "qwen3-tiny", "gemma-tiny", "gemma3-tiny", "gemma2-tiny")


# ---- models

def random_model(cls, config, seed, dtype):
    """A model whose weights, biases and norms are all random, and exact in dtype."""
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    model = cls(config).float().eval()
    for name, p in model.named_parameters():
        norm = "norm" in name and name.endswith("weight") and "Gemma" not in cls.__name__
        value = torch.randn(p.shape) * 0.2 + (1.0 if norm else 0.0)
        p.data.copy_(value.to(dtype).float())
    return model


def save_safetensors(model, folder, dtype, shard="1GB"):
    copy.deepcopy(model).to(dtype).save_pretrained(folder, max_shard_size=shard)
    (folder / "generation_config.json").unlink()


def save_bin(model, folder, dtype, prefix="", shards=1):
    """pytorch_model.bin as transformers 4 wrote it; transformers 5 only reads it."""
    folder.mkdir()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    state = model.state_dict()  # an OrderedDict with a _metadata attribute
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    for name in list(state):
        state[name.removeprefix(prefix)] = state.pop(name).to(dtype)
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    names, weight_map = list(state), {}
    size = sum(t.nbytes for t in state.values())
    done, parts = 0, [{} for _ in range(shards)]
    for name in names:
        part = min(done * shards // size, shards - 1)
        parts[part][name] = state[name].clone()
        weight_map[name] = f"pytorch_model-{part + 1:05}-of-{shards:05}.bin"
        done += state[name].nbytes
    for i, part in enumerate(parts):
        torch.save(part, folder / f"pytorch_model-{i + 1:05}-of-{shards:05}.bin")
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")


def edit_config(folder, drop=(), **add):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key in drop:
        config.pop(key, None)
    config.update(add)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make_models(out):
    """Write every model and return {name: model in float32}."""
    models = {}

    # Norm before, tied head, keys model.decoder.*
    m = models["opt-tiny"] = random_model(OPTForCausalLM, OPTConfig(**OPT), 1, torch.float32)
    save_safetensors(m, out / "opt-tiny", torch.float32)

    # Like facebook/opt-350m: norm after, projections, keys decoder.*, half storages, older config.
    m = models["opt-350m-tiny"] = random_model(
        OPTForCausalLM, OPTConfig(**OPT, word_embed_proj_dim=8, do_layer_norm_before=False), 2, torch.float16)
    save_bin(m, out / "opt-350m-tiny", torch.float16, prefix="model.")
    edit_config(out / "opt-350m-tiny", torch_dtype="float16", activation_dropout=0.0, prefix="</s>",
                drop=["enable_bias", "layer_norm_elementwise_affine", "_remove_final_layer_norm", "dtype",
                      "tie_word_embeddings"])

    # Every optional part switched off, a head of its own, two shards.
    m = models["opt-untied-tiny"] = random_model(
        OPTForCausalLM,
        OPTConfig(**OPT, tie_word_embeddings=False, enable_bias=False, layer_norm_elementwise_affine=False,
                  _remove_final_layer_norm=True, activation_function="gelu"), 3, torch.bfloat16)
    save_safetensors(m, out / "opt-untied-tiny", torch.bfloat16, shard="8KB")

    # Grouped keys, head_dim of its own, an epsilon that counts, rope_theta in the older place.
    m = models["llama-tiny"] = random_model(
        LlamaForCausalLM,
        LlamaConfig(**LLAMA, num_attention_heads=4, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-3,
                    rope_parameters=dict(rope_type="default", rope_theta=1000.0), tie_word_embeddings=True),
        4, torch.float32)
    save_safetensors(m, out / "llama-tiny", torch.float32)
    edit_config(out / "llama-tiny", drop=["rope_parameters", "dtype"], rope_theta=1000.0, rope_scaling=None,
                torch_dtype="float32")

    # Scaled rotary frequencies in the older spelling, biases, a head of its own, two .bin shards.
    m = models["llama3-tiny"] = random_model(LlamaForCausalLM, LlamaConfig(**LLAMA3), 5, torch.float32)
    save_bin(m, out / "llama3-tiny", torch.float32, shards=2)
    edit_config(out / "llama3-tiny", drop=["rope_parameters", "dtype"], rope_theta=10000.0, rope_scaling=ROPE3,
                torch_dtype="float32")

    # The same weights rounded to bf16, in the newer spelling.
    m = models["llama-new-tiny"] = random_model(LlamaForCausalLM, LlamaConfig(**LLAMA3), 5, torch.bfloat16)
    save_safetensors(m, out / "llama-new-tiny", torch.bfloat16)

    # Biases on queries, keys and values alone, which the config does not tell; a window that is named and not used.
    m = models["qwen2-tiny"] = random_model(
        Qwen2ForCausalLM, Qwen2Config(**RELATIVE, tie_word_embeddings=True, sliding_window=4), 6, torch.float32)
    save_safetensors(m, out / "qwen2-tiny", torch.float32)

    # Norms on heads, which are wider than hidden / heads.
    m = models["qwen3-tiny"] = random_model(
        Qwen3ForCausalLM, Qwen3Config(**RELATIVE, head_dim=8, tie_word_embeddings=False, rms_norm_eps=1e-3), 7,
        torch.float32)
    save_safetensors(m, out / "qwen3-tiny", torch.float32)

    # Norms about one, scaled embeddings, GELU, one key head; the activation spelled as the first models' files do.
    m = models["gemma-tiny"] = random_model(
        GemmaForCausalLM, GemmaConfig(**dict(RELATIVE, num_key_value_heads=1), head_dim=8), 8, torch.float32)
    save_safetensors(m, out / "gemma-tiny", torch.float32)
    edit_config(out / "gemma-tiny", drop=["tie_word_embeddings"], hidden_act="gelu")

    # Four norms, norms on heads, a score scale of its own, a full block between two local ones; the older spelling.
    m = models["gemma3-tiny"] = random_model(
        Gemma3ForCausalLM,
        Gemma3TextConfig(**dict(RELATIVE, num_hidden_layers=3), head_dim=8, query_pre_attn_scalar=5, sliding_window=32,
                         layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                         rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000.0),
                                              sliding_attention=dict(rope_type="default", rope_theta=50.0))),
        9, torch.float32)
    save_safetensors(m, out / "gemma3-tiny", torch.float32)
    edit_config(out / "gemma3-tiny", drop=["rope_parameters", "layer_types", "tie_word_embeddings"], rope_theta=1000.0,
                rope_local_base_freq=50.0, rope_scaling=dict(rope_type="linear", factor=8.0), sliding_window_pattern=2)

    # Caps that count, at scores and logits of these sizes; four norms and none on heads.
    m = models["gemma2-tiny"] = random_model(
        Gemma2ForCausalLM,
        Gemma2Config(**RELATIVE, head_dim=8, query_pre_attn_scalar=2, sliding_window=32, attn_logit_softcapping=1.5,
                     final_logit_softcapping=2.0), 10, torch.float32)
    save_safetensors(m, out / "gemma2-tiny", torch.float32)
    return models


# ---- reference numbers

def digits(value):
    """Seven significant digits, in nested lists."""
    return [digits(v) for v in value] if isinstance(value, list) else float(f"{value:.7g}")


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def score(model, prompt, answer):
    """Mean log-probability of the answer's tokens, the row computed on its own."""
    rows = logits(model, prompt + answer)[len(prompt) - 1 : -1].log_softmax(-1)
    return rows.gather(1, torch.tensor(answer)[:, None]).mean().item()


def reference(model, folder, rng):
    tokens = [rng.integers(4, VOCAB, n).tolist() for n in (7, 23)]
    prompt = rng.integers(4, VOCAB, 9).tolist()
    a, b, c, d, e, f = rng.permutation(np.arange(4, VOCAB))[:6].tolist()
    candidates = [[a], [b, c], [b, d, e, f]]

    # transformers must read the folder back as the same model.
    back = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    for ids in tokens:
        assert torch.equal(logits(model, ids), logits(back, ids)), folder
    # ... and the scaling of the rotary frequencies must be visible.
    if (getattr(model.config, "rope_parameters", None) or {}).get("rope_type") == "llama3":
        plain = copy.deepcopy(model.config)
        plain.rope_parameters = dict(rope_type="default", rope_theta=10000.0)
        other = LlamaForCausalLM(plain).eval()
        other.load_state_dict(model.state_dict())
        for ids in tokens:
            assert (logits(model, ids) - logits(other, ids)).abs().max() > 1e-2, folder

    return {
        "sequences": [{"tokens": ids, "logits": digits(logits(model, ids).tolist())} for ids in tokens],
        "candidates": {"prompt": prompt, "answers": candidates,
                       "scores": digits([score(model, prompt, c) for c in candidates])},
    }


def permutations():
    rows = []
    for seed in (0, 1, 42, 2**32 - 1):
        for n in (1, 2, 10, 100, 872, 67349):
            np.random.seed(seed)
            p = np.random.permutation(n)
            rows.append({"seed": seed, "n": n, "first": p[:8].tolist(),
                         "sha256": hashlib.sha256(p.astype("<i8").tobytes()).hexdigest()})
    return {"made_with": f"numpy {np.__version__}",
            "rule": "np.random.seed(seed); np.random.permutation(n); sha256 over little-endian int64",
            "permutations": rows}


def write_rows(folder):
    """Columns of every kind that data sets have, in row groups and pages of a few rows, as `datasets` writes them: snappy,
    dictionaries, an index of pages. Also without dictionaries, in version 2 pages, by gzip; and by zstd, which is refused."""
    rows = [{"sentence": f"a film of \u201cnumber\u201d {i // 3}", "label": i % 2, "idx": i, "flag": i % 3 == 0,
             "score": i / 4, "note": None if i % 4 else "noted\nhere",
             "target": {"span1_text": f"span {i}", "span1_index": i}, "words": ["a", None, str(i)][:i % 4]}
            for i in range(20)]
    schema = pa.schema([
        ("sentence", pa.string()), ("label", pa.int64()), ("idx", pa.int32()), ("flag", pa.bool_()), ("score", pa.float64()),
        ("note", pa.large_string()), ("target", pa.struct([("span1_text", pa.large_string()), ("span1_index", pa.int16())])),
        ("words", pa.list_(pa.string()))])
    table = pa.Table.from_pylist(rows, schema)
    pq.write_table(table, folder / "rows.parquet", row_group_size=7, data_page_size=40, write_batch_size=3,
                   write_page_index=True)
    pq.write_table(table, folder / "rows-gzip.parquet", compression="gzip", use_dictionary=False, data_page_version="2.0")
    pq.write_table(table.select(["idx"]), folder / "rows-zstd.parquet", compression="zstd")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_json(path, value):
    """One line per list of numbers, so that the file stays small and can still be read."""
    text = json.dumps(value, separators=(",", ":"))
    text = text.replace("],[", "],\n[").replace("},{", "},\n{").replace('},"', '},\n"')
    path.write_text(text + "\n")


def main():
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "tests" / "fixtures")
    out.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        shutil.rmtree(out / name, ignore_errors=True)

    models = make_models(out)
    rng = np.random.default_rng(0)
    result = {"made_with": f"transformers {transformers.__version__}, torch {torch.__version__}, float32, "
                           "one sequence at a time",
              "models": {name: reference(model, out / name, rng) for name, model in models.items()}}
    write_json(out / "logits.json", result)
    write_json(out / "numpy_permutations.json", permutations())
    write_rows(out)

    for path in sorted(out.iterdir()):
        files = [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else [path]
        print(f"{sum(f.stat().st_size for f in files):8} {path.name}")


if __name__ == "__main__":
    main()
