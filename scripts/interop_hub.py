#!/usr/bin/env python3
"""Check that zotune and Python's huggingface_hub read each other's cache.

A small hub on 127.0.0.1 serves a tiny OPT whose weights are pytorch_model.bin, with flax and tf files beside them.
1. zotune fetches it; huggingface_hub, offline, finds every file that zotune wanted, and transformers loads the weights;
   online, huggingface_hub fetches none of them again.
2. huggingface_hub fetches it; zotune, offline, scores it as before, and the hub hears nothing.
3. While Python holds huggingface_hub's lock on the weights, zotune waits for it.

Run:  scripts/interop.sh hub      (python scripts/interop_hub.py --zotune target/release/zotune)
Needs torch, transformers, huggingface_hub.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ID, COMMIT = "facebook/opt-tiny", "27dcfa74d334bc871f3234de431e71c6eeba5dd6"
FIXTURE = Path(__file__).parent.parent / "tests/fixtures/opt-350m-tiny"
WANTED = ["config.json", "merges.txt", "pytorch_model.bin", "tokenizer_config.json", "vocab.json"]


def repo_files():
    files = {path.name: path.read_bytes() for path in FIXTURE.iterdir()}
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *"\u0120abcdefghijklmnopqrstuvwxyz.,'!?"]
    files["vocab.json"] = json.dumps({token: i for i, token in enumerate(tokens)}).encode()
    files["merges.txt"] = b"#version: 0.2\n"
    files["tokenizer_config.json"] = b'{"add_bos_token": true, "bos_token": "</s>", "eos_token": "</s>"}'
    for name in ["flax_model.msgpack", "tf_model.h5", "README.md"]:
        files[name] = b"not for us"
    return files


FILES = repo_files()


def is_large(name):
    return name.endswith((".bin", ".msgpack", ".h5"))


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag(name):
    return hashlib.sha256(FILES[name]).hexdigest() if is_large(name) else git_hash(FILES[name])


def tree_entry(name):
    entry = {"type": "file", "path": name, "size": len(FILES[name]), "oid": git_hash(FILES[name])}
    if is_large(name):
        entry["lfs"] = {"oid": etag(name), "size": len(FILES[name]), "pointerSize": 134}
    return entry


class Handler(BaseHTTPRequestHandler):
    """Of the hub's interface what the two clients ask."""

    requests = []
    # The content network is another host, so another port here.
    network = None

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        self.requests.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        for revision in ["main", COMMIT]:
            if path == f"/api/models/{ID}/revision/{revision}":
                about = {"id": ID, "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
                return self.answer(200, json.dumps(about).encode(), Content_Type="application/json")
            if path == f"/api/models/{ID}/tree/{revision}":
                tree = [tree_entry(name) for name in FILES]
                return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
            for name in FILES:
                if path == f"/{ID}/resolve/{revision}/{name}":
                    if is_large(name):
                        return self.answer(302, Location=f"{self.network}/cdn/{name}", X_Repo_Commit=COMMIT,
                                           X_Linked_Etag=f'"{etag(name)}"', X_Linked_Size=len(FILES[name]))
                    return self.answer(200, FILES[name], X_Repo_Commit=COMMIT, ETag=f'"{etag(name)}"')
        if path.startswith("/cdn/"):
            return self.answer(200, FILES[path.removeprefix("/cdn/")], ETag='"of the network"')
        return self.answer(404, b"{}", X_Error_Code="EntryNotFound" if "/resolve/" in path else "RepoNotFound")

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def clean(home, endpoint, **more):
    """The environment without anybody's settings of the hub."""
    kept = {k: v for k, v in os.environ.items()
            if not k.startswith(("HF_", "TRANSFORMERS_")) and not k.upper().endswith("_PROXY")}
    return kept | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"} | more


def zotune(binary, environment):
    args = [binary, "eval", "--model", ID, "--task", "reviews", "--num-eval", "8", "--json", "--quiet"]
    run = subprocess.run(args, env=environment, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"zotune failed:\n{run.stderr}")
    scored = json.loads(run.stdout)
    return scored["accuracy"], scored["loss"]


def python(code, environment):
    """What a Python of its own prints, for huggingface_hub reads the environment once."""
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"huggingface_hub failed:\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


FIND = f"""
import json, pathlib
from huggingface_hub import hf_hub_download, snapshot_download
folder = snapshot_download({ID!r}, local_files_only=True)
found = {{n: hf_hub_download({ID!r}, n, local_files_only=True) for n in {WANTED!r}}}
assert all(pathlib.Path(p) == pathlib.Path(folder) / n for n, p in found.items()), (folder, found)
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({ID!r}, local_files_only=True)
print(json.dumps({{"files": found, "weights": sum(p.numel() for p in model.parameters())}}))
"""
FETCH = f"""
import json
from huggingface_hub import snapshot_download
print(json.dumps(snapshot_download({ID!r}, allow_patterns={WANTED!r})))
"""


def check_python_reads_zotune(binary, endpoint, home):
    score = zotune(binary, clean(home, endpoint))
    asked = [r for r in Handler.requests if any(other in r for other in ["flax", "tf_model", "README"])]
    assert not asked, asked
    found = python(FIND, clean(home, endpoint, HF_HUB_OFFLINE="1"))
    for name, path in found["files"].items():
        assert Path(path).read_bytes() == FILES[name], name
    assert found["weights"] > 1000, found
    Handler.requests.clear()
    python(FETCH, clean(home, endpoint))
    again = [r for r in Handler.requests if r.startswith("GET") and ("/cdn/" in r or "/resolve/" in r)]
    assert not again, again
    print(f"ok: huggingface_hub finds what zotune fetched, offline and online ({len(WANTED)} files, {found['weights']} weights)")
    return score


def check_zotune_reads_python(binary, endpoint, home, score):
    python(FETCH, clean(home, endpoint))
    Handler.requests.clear()
    found = zotune(binary, clean(home, endpoint, HF_HUB_OFFLINE="1"))
    assert found == score, (found, score)
    assert not Handler.requests, Handler.requests
    print(f"ok: zotune, offline, scores what huggingface_hub fetched: accuracy {score[0]}, loss {score[1]:.6f}")


def check_locks(binary, endpoint, home):
    from huggingface_hub.utils import WeakFileLock

    lock = home / "hub/.locks" / f"models--{ID.replace('/', '--')}" / f"{etag('pytorch_model.bin')}.lock"
    lock.parent.mkdir(parents=True)
    args = [binary, "eval", "--model", ID, "--task", "reviews", "--num-eval", "8"]
    with WeakFileLock(lock):
        child = subprocess.Popen(args, env=clean(home, endpoint), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = next((line for line in child.stderr if "waiting for another process" in line), None)
        assert said, "zotune did not wait for huggingface_hub's lock"
        assert child.poll() is None
    child.stderr.read()
    assert child.wait() == 0, child.returncode
    print("ok: zotune waits for huggingface_hub's lock")


def serve():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--zotune", required=True)
    binary = str(Path(parser.parse_args().zotune).resolve())
    endpoint, Handler.network = serve(), serve()
    with tempfile.TemporaryDirectory() as place:
        homes = [Path(place) / name for name in ["zotune", "python", "both"]]
        score = check_python_reads_zotune(binary, endpoint, homes[0])
        check_zotune_reads_python(binary, endpoint, homes[1], score)
        check_locks(binary, endpoint, homes[2])


if __name__ == "__main__":
    main()
