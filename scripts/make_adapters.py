#!/usr/bin/env python3
"""Make tests/fixtures/adapters: adapters of the tiny fixture models as PEFT writes them, and what PEFT computes with them.

For each adapter a folder (adapter_config.json, adapter_model.safetensors); and in adapters.safetensors, under its name, the
logits of one sequence (float32) and the gradients of the sequence's mean token loss with respect to the adapter's tensors.

Run:  python scripts/make_adapters.py          Needs torch, transformers, peft and safetensors.
"""

import json
import pathlib
import tempfile

import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

FIXTURES = pathlib.Path(__file__).parent.parent / "tests" / "fixtures"
TOKENS = [2, 10, 33, 17, 5, 48, 21, 9, 9, 60, 12, 7]
ADAPTERS = [
    ("opt-tiny", "lora", LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")),
    ("opt-tiny", "lora-all", LoraConfig(r=2, lora_alpha=3, target_modules="all-linear", task_type="CAUSAL_LM")),
    ("opt-tiny", "prefix", PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")),
    ("llama-tiny", "lora", LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")),
    ("llama-tiny", "lora-all", LoraConfig(r=2, lora_alpha=4, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM")),
    ("llama-tiny", "prefix", PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")),
    # It begins by changing the base's weights; what is saved against what it began as goes with the base as it was.
    ("llama-tiny", "pissa", LoraConfig(r=2, lora_alpha=3, init_lora_weights="pissa", target_modules=["q_proj", "v_proj"],
                                       task_type="CAUSAL_LM")),
]


def converted(model, base, folder):
    """What PEFT saves of a trained PiSSA adapter as an ordinary one, on the base as it was."""
    with tempfile.TemporaryDirectory() as begun:
        config = model.peft_config["default"]
        begin = {name: p.data.clone() for name, p in model.named_parameters() if p.requires_grad}
        model.peft_config["default"].init_lora_weights = True  # what PEFT wants of the one that it began as
        model.save_pretrained(begun)
        config.init_lora_weights = "pissa"
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.data = begin[name] + 0.5 * torch.randn(p.shape) / p.shape[-1] ** 0.5
        trained = model(input_ids=torch.tensor([TOKENS])).logits
        model.save_pretrained(folder, path_initial_model_for_weight_conversion=begun)
    plain = AutoModelForCausalLM.from_pretrained(FIXTURES / base, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(plain, folder, is_trainable=True).eval()
    difference = (model(input_ids=torch.tensor([TOKENS])).logits - trained).abs().max().item()
    assert difference < 1e-4, difference
    return model


def main():
    numbers = {}
    for base, kind, config in ADAPTERS:
        torch.manual_seed(len(numbers))
        model = AutoModelForCausalLM.from_pretrained(FIXTURES / base, dtype=torch.float32, attn_implementation="eager")
        model.config.name_or_path = model.name_or_path = base
        config.base_model_name_or_path = base
        model = get_peft_model(model, config).eval()
        name = f"{base}-{kind}"
        if kind == "pissa":
            model = converted(model, base, FIXTURES / "adapters" / name)
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if kind != "pissa":
            for _, p in trained:
                p.data = 0.5 * torch.randn(p.shape) / p.shape[-1] ** 0.5
        ids = torch.tensor([TOKENS])
        logits = model(input_ids=ids).logits[0, -len(TOKENS) :]
        loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:])
        loss.backward()
        folder = FIXTURES / "adapters" / name
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        written = json.loads((folder / "adapter_config.json").read_text())
        written["base_model_name_or_path"] = base
        (folder / "adapter_config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
        numbers[f"{name}/logits"] = logits.detach().contiguous()
        numbers[f"{name}/loss"] = loss.detach().reshape(1)
        stored = load_file(folder / "adapter_model.safetensors")
        for key, p in trained:
            key = key.replace(".default", "")
            key = "prompt_embeddings" if kind == "prefix" else key
            assert key in stored and torch.allclose(stored[key].flatten(), p.data.flatten()), key
            numbers[f"{name}/{key}"] = p.grad.contiguous()
        print(f"{name}: {len(trained)} tensors, loss {loss.item():.4f}")
    numbers["tokens"] = torch.tensor(TOKENS, dtype=torch.int64)
    save_file(numbers, FIXTURES / "adapters.safetensors")


if __name__ == "__main__":
    main()
