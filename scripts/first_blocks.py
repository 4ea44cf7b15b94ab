#!/usr/bin/env python3
"""The first N blocks of a LLaMA model in Hugging Face layout (one model.safetensors), as a model of its own: a third model for sweeps.

    scripts/first_blocks.py models/smollm2-135m 15 models/smollm2-15-blocks
"""
import json
import os
import shutil
import struct
import sys

source, blocks, target = sys.argv[1], int(sys.argv[2]), sys.argv[3]
os.makedirs(target)
for name in os.listdir(source):
    if name not in ("config.json", "model.safetensors") and os.path.isfile(f"{source}/{name}"):
        shutil.copy(f"{source}/{name}", target)
config = json.load(open(f"{source}/config.json"))
config["num_hidden_layers"] = blocks
json.dump(config, open(f"{target}/config.json", "w"), indent=2)

with open(f"{source}/model.safetensors", "rb") as whole:
    size = struct.unpack("<Q", whole.read(8))[0]
    header = json.loads(whole.read(size))
    kept, parts, end = {}, [], 0
    for name, info in header.items():
        words = name.split(".")
        if name == "__metadata__" or ("layers" in words and int(words[words.index("layers") + 1]) >= blocks):
            continue
        first, last = info["data_offsets"]
        whole.seek(8 + size + first)
        parts.append(whole.read(last - first))
        kept[name] = {**info, "data_offsets": [end, end + last - first]}
        end += last - first
header = json.dumps(kept).encode()
header += b" " * (-len(header) % 8)
with open(f"{target}/model.safetensors", "wb") as out:
    out.write(struct.pack("<Q", len(header)) + header)
    for part in parts:
        out.write(part)
