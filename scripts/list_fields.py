#!/usr/bin/env python3
"""Make tests/fixtures/fields.json: the fields that transformers' config classes, PEFT's and gguf's constants have, with their
defaults, which the tables beside zotune's readers are held to.

Run:  python scripts/list_fields.py          Needs transformers 5, peft and gguf.
"""

import dataclasses
import json
import pathlib

import gguf
import peft
import transformers
from peft import LoraConfig, PrefixTuningConfig
from transformers import (Gemma2Config, Gemma3TextConfig, GemmaConfig, GenerationConfig, LlamaConfig, MistralConfig, OPTConfig,
                          Qwen2Config, Qwen3Config)

FIXTURES = pathlib.Path(__file__).parent.parent / "tests" / "fixtures"
CONFIGS = [OPTConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, GemmaConfig, Gemma2Config, Gemma3TextConfig]


def defaults(cls):
    """Each field's default as JSON has it; what is required is null."""
    found = {}
    for field in dataclasses.fields(cls):
        value = field.default if field.default is not dataclasses.MISSING else None
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        found[field.name] = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    return dict(sorted(found.items()))


def names_under(prefix):
    """The keys that gguf knows under a prefix, wherever its constants keep them."""
    found, groups = set(), [gguf.constants.Keys]
    while groups:
        for value in vars(groups.pop()).values():
            if isinstance(value, type):
                groups.append(value)
            elif isinstance(value, str) and value.startswith(prefix):
                found.add(value.removeprefix(prefix))
    return sorted(found)


def main():
    result = {
        "made_with": f"transformers {transformers.__version__}, peft {peft.__version__}",
        "config": {cls.model_type: defaults(cls) for cls in CONFIGS},
        "generation": sorted(GenerationConfig._get_default_generation_params()),
        "adapter": {"LORA": defaults(LoraConfig), "PREFIX_TUNING": defaults(PrefixTuningConfig)},
        "gguf": {"architecture": names_under("{arch}."), "tokenizer": names_under("tokenizer.")},
    }
    (FIXTURES / "fields.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
