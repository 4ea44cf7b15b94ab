# For scripts that compare with Python, which source it with $here set to this folder. Sets $zotune, the built binary; $work,
# a folder that is removed at the end; and $PYTHON, a Python with torch and transformers: the one that the environment names,
# else one in a virtual environment made in $work.
zotune=$here/../target/release/zotune
[ -x "$zotune" ] || { echo "build it first: cargo build --release" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet torch transformers safetensors numpy peft tensorboard
    PYTHON=$work/venv/bin/python
fi
