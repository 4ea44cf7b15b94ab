#!/usr/bin/env python3
"""Make the gradients that the tests of backpropagation compare with.

Writes tests/fixtures/gradients.safetensors: for every model that make_fixtures.py made, read
by transformers in float32, for two losses over the three examples of BATCH,
  MODEL/LOSS/loss         the loss, shape [1];
  MODEL/LOSS/PARAMETER    its gradient by that parameter; tied weights once, as the embedding.
Every candidate (prompt + answer) is a sequence run on its own, without padding.
  classification    a candidate's score is the mean log-probability of its answer's tokens;
                    -log_softmax(scores)[label], the mean over examples;
  teacher_forcing   -log-probability of the right answers' tokens, the mean over all those tokens.

Run:  python scripts/make_gradients.py [FOLDER]        (default: tests/fixtures)
Needs torch, transformers 5, safetensors. The same versions give the same bytes.
"""

import logging
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

MODELS = ("opt-tiny", "opt-350m-tiny", "opt-untied-tiny", "llama-tiny", "llama3-tiny", "llama-new-tiny",
          "qwen2-tiny", "qwen3-tiny", "gemma-tiny", "gemma3-tiny", "gemma2-tiny")
# Prompt, candidate answers, label.
BATCH = (
    ([2, 10, 11, 12, 13, 14], [[20], [21]], 0),
    ([2, 30, 31, 32], [[40, 41, 42], [40, 43]], 1),
    ([2, 5, 6, 7, 8, 9, 10, 11], [[22, 23], [24, 25, 26]], 0),
)


def log_probs(model, prompt, answer):
    """The log-probability of each of the answer's tokens, given all that precedes it."""
    logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0]
    rows = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return rows.gather(1, torch.tensor(answer)[:, None])[:, 0]


def classification(model):
    losses = []
    for prompt, answers, label in BATCH:
        scores = torch.stack([log_probs(model, prompt, a).mean() for a in answers])
        losses.append(-scores.log_softmax(-1)[label])
    return torch.stack(losses).mean()


def teacher_forcing(model):
    return -torch.cat([log_probs(model, prompt, answers[label]) for prompt, answers, label in BATCH]).mean()


def gradients(model, loss):
    """{"loss": its value, parameter: its gradient}"""
    model.zero_grad()
    value = loss(model)
    value.backward()
    grads = {"loss": value.detach().reshape(1)}
    for name, p in model.named_parameters():
        if p.grad is None:
            print(f"         no gradient: {name}")
        grads[name] = torch.zeros_like(p) if p.grad is None else p.grad.clone()
    return grads


def load(folder, dtype):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    used = max(token for prompt, answers, _ in BATCH for token in sum(answers, prompt))
    assert used < model.config.vocab_size, folder
    return model


def main():
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "tests" / "fixtures")

    result = {}
    for name in MODELS:
        model, exact = load(out / name, torch.float32), load(out / name, torch.float64)
        for loss in (classification, teacher_forcing):
            grads, wide = gradients(model, loss), gradients(exact, loss)
            # float64 (but for what transformers always does in float32) must agree, or a test
            # would compare with rounding errors.
            error = max((grads[k] - wide[k]).abs().max().item() for k in grads)
            assert error < 1e-5, (name, loss.__name__, error)
            print(f"{name:16} {loss.__name__:16} loss {grads['loss'].item():.7f}   off float64 by {error:.1e}")
            result.update({f"{name}/{loss.__name__}/{key}": value for key, value in grads.items()})

    path = out / "gradients.safetensors"
    save_file(result, path, {"made_with": f"transformers {transformers.__version__}, torch {torch.__version__}"})
    print(f"{path.stat().st_size:8} {path.name}")


if __name__ == "__main__":
    main()
