#!/usr/bin/env python3
"""Make tests/fixtures/odd.json and odd-views/: the tiny fixture models told otherwise, and what transformers computes then.

odd.json has a list of cases. Each names a fixture, what is changed in its config.json (`set`, `drop`) and in its tensors (`head`:
`rolled`, the embedding's rows moved on by one, as an lm_head.weight of its own; `same`, the embedding again; `only`, it alone), and
what transformers makes of it:
  logits    of the sequence's last token, every fourth, float32; absent where they are the unchanged fixture's;
  tied      whether the head is the embedding;
  error     the kind of error, where it does not load, or `missing` where it invents weights.
Whoever reads the same must compute the same, or refuse.

odd-views/ is llama-tiny as a pytorch_model.bin whose tensors are views: rows of one larger tensor, transposed, strided and expanded
ones, in storages of float32, float16 and bfloat16, several in one storage.

Run:  python scripts/make_odd_models.py          Needs torch, transformers 5 and safetensors, and the fixtures of make_fixtures.py.
"""

import json
import logging
import pathlib
import shutil
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

FIXTURES = pathlib.Path(__file__).parent.parent / "tests" / "fixtures"
MODELS = ["opt-tiny", "opt-350m-tiny", "opt-untied-tiny", "llama-tiny", "llama3-tiny", "llama-new-tiny", "qwen2-tiny", "qwen3-tiny",
          "gemma-tiny", "gemma3-tiny", "gemma2-tiny"]
TOKENS = [4 + (i * i + 3 * i) % 60 for i in range(40)]

LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
ROPES = [
    LLAMA3, dict(LLAMA3, original_max_position_embeddings=16), dict(rope_type="dynamic", factor=4.0),
    dict(type="linear", factor=4.0), dict(type="linear", rope_type="default"), dict(rope_type="linear", factor=2.0, rope_theta=77.0), {},
    dict(rope_type="default", rope_theta=33.0), dict(rope_type="default", factor=4.0), dict(type="dynamic", factor=2.0),
    dict(rope_type="linear"), dict(rope_type="llama3", factor=8.0), dict(rope_theta=44.0),
    dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16), dict(rope_type="linear", factor=2.0, partial_rotary_factor=0.5),
    dict(rope_type="longrope", factor=2.0, short_factor=[1.0] * 4, long_factor=[2.0] * 4, original_max_position_embeddings=16),
]
KINDS = [
    dict(full_attention=dict(rope_type="linear", factor=2.0)), dict(sliding_attention=dict(rope_type="linear", factor=2.0, rope_theta=9.0)),
    dict(full_attention=dict(rope_type="default", rope_theta=12.0), sliding_attention=dict(rope_type="default", rope_theta=13.0)),
]
VALUES = {
    "attention_bias": [True, False], "mlp_bias": [True, False], "sliding_window": [8, 64, None], "use_sliding_window": [True, False],
    "max_window_layers": [0, 1], "layer_types": [["full_attention"] * 2, ["sliding_attention"] * 2, ["full_attention"] * 3],
    "tie_word_embeddings": [True, False, None], "hidden_act": ["gelu", "relu", "silu", "gelu_pytorch_tanh", None],
    "hidden_activation": ["gelu", "relu", "silu", "gelu_pytorch_tanh", None], "query_pre_attn_scalar": [64, None],
    "attn_logit_softcapping": [None, 3.0], "final_logit_softcapping": [None, 3.0], "rms_norm_eps": [0.01, None],
    "rope_theta": [50.0, None], "rope_scaling": ROPES + KINDS, "rope_parameters": ROPES + KINDS, "partial_rotary_factor": [0.5, 1.0],
    "original_max_position_embeddings": [16], "max_position_embeddings": [48], "use_bidirectional_attention": [True, False],
    "is_causal": [False, True], "pretraining_tp": [2], "initializer_range": [0.5], "attention_dropout": [0.5], "is_decoder": [True],
    "is_encoder_decoder": [True], "add_cross_attention": [True], "chunk_size_feed_forward": [1],
    "activation_function": ["gelu", "gelu_new", "silu", "tanh"], "do_layer_norm_before": [False, True],
    "_remove_final_layer_norm": [True, False], "enable_bias": [False], "layer_norm_elementwise_affine": [False], "dropout": [0.5],
    "layerdrop": [0.5], "sliding_window_pattern": [1, 2, 3], "_sliding_window_pattern": [1], "rope_local_base_freq": [9.0],
    "rope_interleaved": [True], "per_layer_config": [{"0": {"rms_norm_eps": 0.1}}], "pad_token_id": [5], "eos_token_id": [5, [5, 6]],
    "num_key_value_heads": [None], "head_dim": [None], "word_embed_proj_dim": [None], "logit_scale": [0.5], "output_attentions": [True],
    "attention_multiplier": [0.1], "residual_multiplier": [0.1], "embedding_multiplier": [2.0], "mlp_only_layers": [[0]],
    "attention_chunk_size": [8], "no_rope_layers": [[0, 0]], "use_qk_norm": [True], "clip_qkv": [0.1], "rotary_pct": [0.5],
    "num_local_experts": [2], "_attn_implementation": ["sdpa"], "torch_dtype": ["bfloat16"], "use_cache": [False],
}
TOGETHER = [
    ("llama-tiny", dict(rope_scaling=dict(type="linear", factor=4.0), rope_parameters=dict(rope_type="default", rope_theta=9.0)), []),
    ("llama-tiny", dict(rope_scaling=LLAMA3, original_max_position_embeddings=32), []),
    ("llama-tiny", dict(rope_scaling=dict(LLAMA3, original_max_position_embeddings=16), original_max_position_embeddings=32), []),
    ("llama-tiny", dict(rope_scaling={}, rope_parameters=dict(rope_type="linear", factor=2.0)), []),
    ("llama-tiny", dict(model_type="mistral"), []),
    ("llama-tiny", dict(model_type="mistral", sliding_window=None), []),
    ("llama-tiny", dict(model_type="mistral", sliding_window=8), []),
    ("llama-tiny", dict(model_type="mistral"), ["num_key_value_heads"]),
    ("llama-tiny", dict(model_type="mistral", num_key_value_heads=None), []),
    ("llama-tiny", dict(model_type="mistral", attention_bias=True), []),
    ("qwen2-tiny", dict(sliding_window=8, use_sliding_window=True), []),
    ("qwen2-tiny", dict(sliding_window=8, use_sliding_window=True, max_window_layers=0, layer_types=None), []),
    ("qwen2-tiny", dict(sliding_window=64, use_sliding_window=True, max_window_layers=1, layer_types=None), []),
    ("gemma3-tiny", dict(rope_parameters=KINDS[2], rope_scaling=dict(rope_type="linear", factor=4.0)), ["rope_theta", "rope_local_base_freq"]),
    ("gemma3-tiny", dict(rope_parameters=KINDS[0]), ["rope_scaling", "rope_theta", "rope_local_base_freq"]),
    ("gemma3-tiny", {}, ["rope_scaling", "rope_theta", "rope_local_base_freq"]),
    ("gemma3-tiny", dict(_sliding_window_pattern=2), ["sliding_window_pattern"]),
    ("gemma2-tiny", {}, ["attn_logit_softcapping", "final_logit_softcapping"]),
    ("gemma-tiny", dict(hidden_act="gelu", hidden_activation="gelu"), []),
]
EMBEDDINGS = ["model.embed_tokens.weight", "model.decoder.embed_tokens.weight", "decoder.embed_tokens.weight"]


def digits(values):
    return [float(f"{v:.5g}") for v in values]


def change_head(folder, how):
    """Gives the checkpoint an lm_head.weight, in whatever format it has."""
    safe = (folder / "model.safetensors").exists()
    path = folder / ("model.safetensors" if safe else "pytorch_model.bin")
    state = load_file(path) if safe else torch.load(path)
    embedding = next(name for name in EMBEDDINGS if name in state)
    head = state[embedding].roll(1, 0) if how == "rolled" else state[embedding].clone()
    if how == "only":
        del state[embedding]
    state["lm_head.weight"] = head
    save_file(state, path, {"format": "pt"}) if safe else torch.save(state, path)


@torch.no_grad()
def compute(folder):
    try:
        model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                           output_loading_info=True)
        if info["missing_keys"]:
            return {"error": "missing"}
        logits = model.eval()(input_ids=torch.tensor([TOKENS]), use_cache=False).logits[0, -1, ::4]
    except Exception as error:  # whatever it is: it does not load, or does not run
        return {"error": type(error).__name__}
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return {"logits": digits(logits.tolist()), "tied": tied}


def case(name, add=None, drop=(), head=None):
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place) / name
        shutil.copytree(FIXTURES / name, folder)
        path = folder / "config.json"
        config = json.loads(path.read_text())
        for field in drop:
            config.pop(field, None)
        config.update(add or {})
        path.write_text(json.dumps(config))
        if head:
            change_head(folder, head)
        found = compute(folder)
    entry = {"model": name}
    entry.update({key: value for key, value in [("set", add), ("drop", list(drop)), ("head", head)] if value})
    return entry | found


def make_views(folder):
    """llama-tiny's weights as views of larger tensors."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(FIXTURES / "llama-tiny" / "config.json", folder / "config.json")
    weights = load_file(FIXTURES / "llama-tiny" / "model.safetensors")
    torch.manual_seed(1)
    state = {}
    for i in range(2):
        name = f"model.layers.{i}."
        # Queries, keys and values are rows of one tensor with rows before them that are nobody's.
        parts = [weights[f"{name}self_attn.{p}_proj.weight"] for p in "qkv"]
        fused = torch.cat([torch.randn(5, 16), *parts, torch.randn(3, 16)]).to(torch.bfloat16 if i else torch.float32)
        start = 5
        for p, part in zip("qkv", parts):
            state[f"{name}self_attn.{p}_proj.weight"] = fused[start : start + len(part)]
            start += len(part)
        # The output is a transposed view behind an offset; gate and up are the even and the odd rows of one tensor, in float16.
        out = weights[f"{name}self_attn.o_proj.weight"]
        turned = torch.cat([torch.randn(2, out.shape[0]), out.T.contiguous()])
        state[f"{name}self_attn.o_proj.weight"] = turned[2:].T
        gate, up = (weights[f"{name}mlp.{p}_proj.weight"].half() for p in ("gate", "up"))
        both = torch.stack([gate, up], 1).reshape(-1, 16)
        state[f"{name}mlp.gate_proj.weight"], state[f"{name}mlp.up_proj.weight"] = both[0::2], both[1::2]
        # Columns of a wider matrix.
        down = weights[f"{name}mlp.down_proj.weight"]
        state[f"{name}mlp.down_proj.weight"] = torch.cat([torch.randn(16, 4), down, torch.randn(16, 2)], 1)[:, 4:-2]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            state[f"{name}{norm}.weight"] = weights[f"{name}{norm}.weight"]
    # A norm that is one number, expanded; the embedding as rows of something larger, and the head as the same rows again.
    state["model.norm.weight"] = torch.tensor([0.7]).expand(16)
    table = torch.cat([torch.randn(9, 16), weights["model.embed_tokens.weight"], torch.randn(7, 16)])
    state["model.embed_tokens.weight"] = state["lm_head.weight"] = table[9:-7]
    torch.save(state, folder / "pytorch_model.bin")


def main():
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    make_views(FIXTURES / "odd-views")
    cases = []
    for name in MODELS:
        plain = case(name)
        cases.append(plain)
        config = json.loads((FIXTURES / name / "config.json").read_text())
        several = [case(name, {field: value}) for field, values in VALUES.items() for value in values]
        several += [case(name, drop=[field]) for field in config if field != "model_type"]
        if plain["tied"]:
            several += [case(name, head=how) for how in ("rolled", "same", "only")]
            several += [case(name, {"tie_word_embeddings": False}, head="rolled")]
        several += [case(of, add, drop) for of, add, drop in TOGETHER if of == name]
        for entry in several:
            if entry.get("logits") == plain["logits"]:
                del entry["logits"]
            cases.append(entry)
    result = {"made_with": f"transformers {transformers.__version__}, torch {torch.__version__}, float32", "tokens": TOKENS,
              "views": compute(FIXTURES / "odd-views"), "cases": cases}
    text = json.dumps(result, separators=(",", ":")).replace('},{"model"', '},\n{"model"')
    (FIXTURES / "odd.json").write_text(text + "\n")
    kinds = [entry.get("error", "changed" if "logits" in entry else "same") for entry in cases]
    print({kind: kinds.count(kind) for kind in sorted(set(kinds))}, (FIXTURES / "odd.json").stat().st_size, "bytes")


if __name__ == "__main__":
    main()
