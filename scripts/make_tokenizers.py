#!/usr/bin/env python3
"""Make the tokenizers that the tests of tokenising compare with, and what transformers makes of texts with each.

Writes tests/fixtures/tokenizers.json:
  vocabularies  two small BPE vocabularies, trained on the built-in film reviews: "bytes" (GPT-2's alphabet) and "pieces"
                (SentencePiece's, spaces as U+2581, bytes to fall back on), each its tokens in the order of their ids and merges;
  texts         what is tokenised;
  cases         folders. `files` is what stands in them, where the name of a vocabulary stands for its tokens or merges. `ids` is
                what AutoTokenizer makes of each text without its template, `front` and `back` what the template puts around
                it, `eos` the end token that it names.

Run:  python scripts/make_tokenizers.py [FILE]        (default: tests/fixtures/tokenizers.json)
Needs transformers 5. The same versions give the same bytes.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path

import tokenizers
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

ROOT = Path(__file__).parent.parent
TEXTS = [
    "", " ", "  ", "the film was great", " The acting of the film", "in 2024  7 of 12345.678", "line\nbreak\n\n  and\ttab \r\n",
    "nai\u0308ve A\u030angstro\u0308m, \u00c5 \ufb01ne", "\u5317\u4eac \U0001f642", "it's IT'S we'Ll don't", "trailing  ",
    "<s>a</s> b</s>", "x <pad> y<unk>", "a<|endoftext|>b <|im_end|>\nc", "a <tool> b<tool>c", "<s> a </s> b", "<think>well</think>", "\u2581x \u2581 y",
    "a\u00a0b\u3000c", "<extra>  <mask> <image_soft_token>z", "\u2581<PRE> f \u2581<SUF>g\u2581<MID>", "foo_bar(x[0]) != y;  # z", "\n\n\n", "Ab9cD",
    # U+0130 is one that lower-cases to two; the regexes' (?i) and \p{L} are met.
    "\u0130stanbul\u2019s \u00bd \u0968\u0969", "it'\u017f \u212a'LL I'\u017fx", "a\u0085 b\u200b\u2028 \u180ec\u001c \u2167 d\ufeff",
    "e\u0301\u0301 \u1e9e \ud55c\uae00 \u1112\u1161\u11ab",
]
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def lines():
    rows = (ROOT / "tasks" / "reviews" / "train.tsv").read_text().splitlines()[1:301]
    more = ["in 2024 and 2023  or 12345", "    x  = 10;\n\n    y  = 20;\n\n", "it's we'll IT'S", "\n\n\n\n  \n"] * 30
    return [row.split("\t")[0] for row in rows] + more


def vocabulary(pre_tokenizer, first, alphabet, size):
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizer
    model.train_from_iterator(lines(), trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=first, show_progress=False))
    made = json.loads(model.to_str())["model"]
    tokens = sorted(made["vocab"], key=made["vocab"].get)
    assert [made["vocab"][t] for t in tokens] == list(range(len(tokens)))
    return {"tokens": tokens, "merges": [" ".join(pair) for pair in made["merges"]]}


VOCABULARIES = {
    # Spaces, digits and line ends merge as they do where no pattern keeps them apart.
    "bytes": vocabulary(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<s>", "<pad>", "</s>", "<unk>"],
                        sorted(pre_tokenizers.ByteLevel.alphabet()), 380),
    "pieces": vocabulary(pre_tokenizers.Metaspace(prepend_scheme="always", split=True),
                         ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)], [], 420),
}
for vocab in VOCABULARIES.values():
    assert any(m in vocab["merges"] for m in ("Ġ Ġ", "▁ t"))
SIZE = {name: len(v["tokens"]) for name, v in VOCABULARIES.items()}


def added(content, special=True, **more):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": special,
            **more}


def old(content, **more):
    """A token as older versions wrote it."""
    return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": True, "rstrip": False,
            "single_word": False, **more}


def decoder(first, *tokens):
    return {str(first + i): added(t) if isinstance(t, str) else t for i, t in enumerate(tokens)}


def special(content):
    return {"SpecialToken": {"id": content, "type_id": 0}}


def template(front, back=()):
    """A post-processor with these tokens, (content, id), around a text."""
    body = [{"Sequence": {"id": "A", "type_id": 0}}]
    single = [special(c) for c, _ in front] + body + [special(c) for c, _ in back]
    return {"type": "TemplateProcessing", "single": single, "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {c: {"id": c, "ids": [i], "tokens": [c]} for c, i in [*front, *back]}}


def split(pattern, behavior="Isolated"):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}


def byte_level(prefix=False, regex=True):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def tokenizer_json(vocab, pre_tokenizer, post=None, normalizer=None, tokens=(), model=(), **more):
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, **(added(t) if isinstance(t, str) else t)} for i, t in tokens],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post, "decoder": None,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  **dict(model), "vocab": vocab, "merges": vocab},
        **more,
    }


def slow(model_type, tokenizer_config=None, vocab="bytes", **files):
    """A folder with vocab.json and merges.txt."""
    out = {"config.json": {"model_type": model_type}, "vocab.json": vocab, "merges.txt": vocab}
    if tokenizer_config is not None:
        out["tokenizer_config.json"] = tokenizer_config
    return {**out, **{name.replace("__", "."): content for name, content in files.items()}}


def fast(model_type, tokenizer, tokenizer_config=None, **files):
    """A folder with tokenizer.json."""
    out = {"config.json": {"model_type": model_type}, "tokenizer.json": tokenizer}
    if tokenizer_config is not None:
        out["tokenizer_config.json"] = tokenizer_config
    return {**out, **{name.replace("__", "."): content for name, content in files.items()}}


N, P = SIZE["bytes"], SIZE["pieces"]
OPT = {"errors": "replace", "unk_token": old("</s>"), "bos_token": old("</s>"), "eos_token": old("</s>"),
       "pad_token": old("<pad>"), "add_prefix_space": False, "add_bos_token": True, "special_tokens_map_file": None,
       "name_or_path": "facebook/opt", "tokenizer_class": "GPT2Tokenizer"}
QWEN2 = {"add_prefix_space": False, "added_tokens_decoder": decoder(N, "<|endoftext|>", "<|im_start|>", "<|im_end|>"),
         "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": None, "chat_template": "{{ messages }}",
         "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 32768,
         "pad_token": "<|endoftext|>", "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None}
LLAMA2 = {"add_bos_token": True, "add_eos_token": False,
          "added_tokens_decoder": decoder(0, "<unk>", "<s>", "</s>"),
          "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None, "legacy": False,
          "clean_up_tokenization_spaces": False, "model_max_length": 1000000000000000019884624838656, "sp_model_kwargs": {},
          "tokenizer_class": "LlamaTokenizer", "use_default_system_prompt": False}
SP_TOKENS = [(0, "<unk>"), (1, "<s>"), (2, "</s>")]
SP_MODEL = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                               {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
LLAMA2_JSON = tokenizer_json("pieces", None, template([("<s>", 1)]), PREPEND, SP_TOKENS, SP_MODEL)
QWEN2_TOKENS = [(N, "<|endoftext|>"), (N + 1, "<|im_start|>"), (N + 2, "<|im_end|>"), (N + 3, added("<tool>", False))]
LLAMA3_JSON = tokenizer_json("bytes", sequence(split({"Regex": LLAMA3}), byte_level(regex=False)),
                             {"type": "Sequence", "processors": [byte_level(), template([("<s>", 0)])]},
                             tokens=[(0, "<s>"), (2, "</s>")], model={"ignore_merges": True})
GEMMA_TOKENS = [(0, "<unk>"), (1, "<s>"), (2, "</s>"), (VOCABULARIES["pieces"]["tokens"].index("\n\n"), added("\n\n", False)),
                (P, "<mask>")]
GEMMA_JSON = tokenizer_json("pieces", split({"String": " "}, "MergedWithPrevious"), template([("<s>", 1)]),
                            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, GEMMA_TOKENS, SP_MODEL)
GEMMA = {"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
         "pad_token": "<unk>", "mask_token": "<mask>", "tokenizer_class": "GemmaTokenizer", "spaces_between_special_tokens": False,
         "added_tokens_decoder": {str(i): added(t) if isinstance(t, str) else t for i, t in GEMMA_TOKENS}}
DIGITS_JSON = tokenizer_json("bytes", sequence({"type": "Digits", "individual_digits": True}, byte_level()), byte_level(),
                             tokens=[(2, "</s>"), (N, "<|endoftext|>")])


def but(base, **changes):
    return {**base, **changes}


CASES = {
    # vocab.json and merges.txt.
    "opt": slow("opt", OPT),
    "opt, nothing but its type": slow("opt"),
    "opt, a space in front, no begin token, an end token": slow(
        "opt", but(OPT, add_prefix_space=True, add_bos_token=False, add_eos_token=True)),
    "opt, class in config.json": {**slow("opt", {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}),
                                  "config.json": {"model_type": "opt", "tokenizer_class": "Qwen2Tokenizer"}},
    "opt, added_tokens.json and special_tokens_map.json": slow(
        "opt", {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True},
        special_tokens_map__json={"bos_token": "<s>", "eos_token": {k: v for k, v in old("</s>").items() if k != "__type"},
                                  "unk_token": "<unk>", "pad_token": "<pad>", "additional_special_tokens": ["<extra>"]},
        added_tokens__json={"<tool>": N, "<mask>": N + 1, "<extra>": N + 2}),
    "qwen2": slow("qwen2", QWEN2),
    "qwen2, nothing but its type": slow("qwen2"),
    "qwen2, another class is overruled": slow("qwen2", but(QWEN2, tokenizer_class="GPT2Tokenizer")),
    "qwen3, a space in front and a begin token": slow(
        "qwen3", but(QWEN2, tokenizer_class=None, add_prefix_space=True, add_bos_token=True, bos_token="<|im_start|>")),
    "llama with GPT-2's class": slow("llama", but(OPT, bos_token="<s>", extra_special_tokens=["<tool>"])),
    "llama with Qwen2's class": slow("llama", but(QWEN2, tokenizer_class="Qwen2TokenizerFast")),
    "tokens with every flag": slow("opt", but(OPT, added_tokens_decoder={
        "1": added("<pad>"), "2": added("</s>", normalized=True), str(N): added("<tool>", False, lstrip=True, rstrip=True),
        str(VOCABULARIES["bytes"]["tokens"].index("b")): added("b", False, single_word=True, normalized=True),
        str(N + 1): added("<|endoftext|>", rstrip=True)})),
    "special tokens are cut like text": slow("qwen2", but(QWEN2, split_special_tokens=True)),
    "a token under a name of its own": slow("qwen3", but(QWEN2, image_token="<image_soft_token>",
                                                         extra_special_tokens={"turn_token": "<|im_start|>"})),
    # tokenizer.json, as it stands.
    "llama 3": fast("llama", LLAMA3_JSON, {
        "added_tokens_decoder": {"0": added("<s>"), "2": added("</s>")}, "bos_token": "<s>", "eos_token": "</s>",
        "clean_up_tokenization_spaces": True, "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast"}),
    "llama 3, nothing beside": fast("llama", LLAMA3_JSON),
    "llama 3, add_bos_token is not heard": fast("llama", LLAMA3_JSON, {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_eos_token": True, "bos_token": "<s>",
        "eos_token": "</s>", "add_prefix_space": True}),
    "bytes under LLaMA's class": fast("llama", LLAMA3_JSON, {
        "tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "legacy": True}),
    "mistral": fast("mistral", LLAMA2_JSON, LLAMA2),
    "gemma 3, an image token more": fast("gemma3_text", GEMMA_JSON, but(
        GEMMA, tokenizer_class="PreTrainedTokenizerFast", image_token="<image_soft_token>",
        extra_special_tokens={"image_token": "<image_soft_token>"})),
    "an end token behind": fast("llama", but(LLAMA3_JSON, post_processor=template([("<s>", 0)], [("</s>", 2)])), {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}),
    "two tokens in front": fast("llama", but(LLAMA3_JSON, post_processor=template([("<s>", 0), ("<pad>", 1)]))),
    "no template, yet a begin token": fast("llama", but(LLAMA3_JSON, post_processor=None), {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "add_bos_token": True}),
    "cut and padded in somebody's training": fast("llama", but(
        LLAMA3_JSON, truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        padding={"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0,
                 "pad_token": "<pad>"})),
    "tokens added beside tokenizer.json": fast(
        "llama", LLAMA3_JSON, {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<extra>"],
                               "pad_token": "<pad>"},
        special_tokens_map__json={"bos_token": "<s>", "eos_token": "</s>"}, added_tokens__json={"<tool>": N, "<think>": N + 1}),
    "flags of tokenizer_config.json count": fast("llama", LLAMA3_JSON, {
        "tokenizer_class": "TokenizersBackend", "bos_token": "<s>",
        "added_tokens_decoder": {"0": added("<s>", rstrip=True), "2": added("</s>", lstrip=True), str(N): added("<tool>", False)}}),
    # tokenizer.json, made anew by a class.
    "llama 2": fast("llama", LLAMA2_JSON, LLAMA2),
    "llama 2, legacy": fast("llama", LLAMA2_JSON, but(LLAMA2, legacy=True)),
    "llama 2, no space in front": fast("llama", LLAMA2_JSON, but(LLAMA2, add_prefix_space=False)),
    "llama 2, the names alone": fast("llama", LLAMA2_JSON, {
        "tokenizer_class": "LlamaTokenizerFast", "legacy": None, "bos_token": old("<s>"), "eos_token": old("</s>"),
        "unk_token": old("<unk>"), "pad_token": "[PAD]"}),
    "code llama": fast("llama", LLAMA2_JSON, but(
        LLAMA2, tokenizer_class="CodeLlamaTokenizer", legacy=None, suffix_first=False,
        additional_special_tokens=["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"], prefix_token="▁<PRE>", middle_token="▁<MID>",
        suffix_token="▁<SUF>", eot_token="▁<EOT>", fill_token="<FILL_ME>")),
    "gemma": fast("gemma", GEMMA_JSON, GEMMA),
    "gemma 2, fast": fast("gemma2", GEMMA_JSON, but(GEMMA, tokenizer_class="GemmaTokenizerFast")),
    "qwen2, a tokenizer.json": fast("qwen2", tokenizer_json(
        "bytes", sequence(split({"Regex": QWEN}), byte_level(regex=False)), byte_level(), {"type": "NFC"}, QWEN2_TOKENS), QWEN2),
    "qwen2 under LLaMA's class": fast("qwen2", tokenizer_json(
        "bytes", sequence(split({"Regex": QWEN}), byte_level(regex=False)), template([("<|im_start|>", N + 1)]), None,
        QWEN2_TOKENS), {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}),
    "digits that GPT-2's class does not set apart": fast("llama", DIGITS_JSON, {
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": "<|endoftext|>", "eos_token": "</s>",
        "unk_token": "<|endoftext|>", "added_tokens_decoder": {"2": added("</s>"), str(N): added("<|endoftext|>")}}),
    "digits set apart by the class of tokenizer.json": fast("llama", DIGITS_JSON, {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "</s>"}),
}


def contents(name, content):
    """What a file of a case has in it."""
    if name == "merges.txt":
        return "#version: 0.2\n" + "".join(m + "\n" for m in VOCABULARIES[content]["merges"])
    if name == "vocab.json":
        return json.dumps({t: i for i, t in enumerate(VOCABULARIES[content]["tokens"])})
    if name == "tokenizer.json":
        model = content["model"]
        vocab = VOCABULARIES[model["vocab"]]
        whole = {"vocab": {t: i for i, t in enumerate(vocab["tokens"])}, "merges": vocab["merges"]}
        return json.dumps({**content, "model": {**model, **whole}})
    return json.dumps(content)


def described(folder, files):
    for name, content in files.items():
        (folder / name).write_text(contents(name, content), encoding="utf-8")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    whole = [tokenizer(text).input_ids for text in TEXTS]
    # The empty text shows the template; nothing is trusted, it is what every other text has around it as well.
    full = next(i for i, body in enumerate(ids) if body)
    n = len(whole[full]) - len(ids[full])
    at = next(k for k in range(n + 1) if whole[full][k:len(whole[full]) - n + k] == ids[full])
    front, back = whole[full][:at], whole[full][len(whole[full]) - n + at:]
    for body, found in zip(ids, whole):
        assert found == front + body + back, (folder, body, found)
    return {"class": type(tokenizer).__name__, "front": front, "back": back, "eos": tokenizer.eos_token_id, "ids": ids}


def main():
    logging.disable(logging.WARNING)
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "tests" / "fixtures" / "tokenizers.json")
    cases = []
    for name, files in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            cases.append({"name": name, "files": files, **described(Path(folder), files)})
    made_with = f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}"
    compact = {"ensure_ascii": False, "separators": (",", ":")}
    rows = ",\n".join(json.dumps(case, **compact) for case in cases)
    head = json.dumps({"made_with": made_with, "vocabularies": VOCABULARIES, "texts": TEXTS}, **compact)
    out.write_text(head[:-1] + ',\n"cases":[\n' + rows + "\n]}\n", encoding="utf-8")
    for case in cases:
        print(f"{case['class']:20} {case['front']!s:12} {case['back']!s:5} {case['eos']!s:5} {case['name']}")
    print(out.stat().st_size, out.name)


if __name__ == "__main__":
    main()
