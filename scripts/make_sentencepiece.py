#!/usr/bin/env python3
"""Make the small SentencePiece vocabulary that the tests of GGUF compare with.

Trains two BPE models with byte fallback on the built-in film reviews, as LLaMA 2's (a space put in front of a
text) and Gemma's (none) are made, and writes tests/fixtures/sentencepiece.json:
  pieces        [text, score, type] in the order of their ids, the types as GGUF numbers them;
  llama, gemma  what sentencepiece itself makes of each of TEXTS, its pieces and ids.

Run:  python scripts/make_sentencepiece.py [FILE]        (default: tests/fixtures/sentencepiece.json)
Needs sentencepiece. The same version gives the same bytes.
"""

import io
import json
import sys
from pathlib import Path

import sentencepiece

TEXTS = ["a model is fine-tuned", "weights", "  two  spaces, and a trailing one ", "line\nbreak\tand tab", "naïve 北京 🙂",
         "12 345.6789 steps", "f(x) = {x: 1, y[0]}", "The acting of the film", "x", "performances of a wonderful director"]
ROOT = Path(__file__).parent.parent


def train(add_dummy_prefix):
    model = io.BytesIO()
    rows = (ROOT / "tasks" / "reviews" / "train.tsv").read_text().splitlines()[1:301]
    lines = [row.split("\t")[0] for row in rows]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=420, byte_fallback=True,
        character_coverage=0.99, add_dummy_prefix=add_dummy_prefix, remove_extra_whitespaces=False,
        normalization_rule_name="identity", allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def piece_type(model, i):
    if model.is_unknown(i):
        return 2
    if model.is_control(i):
        return 3
    return 6 if model.is_byte(i) else 5 if model.is_unused(i) else 1


def main():
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "tests" / "fixtures" / "sentencepiece.json")
    result = {"made_with": f"sentencepiece {sentencepiece.__version__}"}
    for name, prefix in (("llama", True), ("gemma", False)):
        model = train(prefix)
        result[name] = {
            "pieces": [[model.id_to_piece(i), model.get_score(i), piece_type(model, i)] for i in range(len(model))],
            "texts": [{"text": text, "ids": model.encode(text)} for text in TEXTS],
        }
    text = json.dumps(result, ensure_ascii=False, separators=(",", ":"))
    out.write_text(text.replace('{"text"', '\n{"text"').replace('],"texts"', '],\n"texts"') + "\n")
    print(out.stat().st_size, out.name)


if __name__ == "__main__":
    main()
