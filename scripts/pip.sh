#!/usr/bin/env bash
# Installs the command with pip into a throw-away environment and trains with it, away from the repository.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "$here"
cd "$work"
said=$("$work/venv/bin/zotune" --version)
[ "$said" = "zotune $(sed -n 's/^version = "\(.*\)"/\1/p' "$here/Cargo.toml" | head -1)" ] || { echo "it is $said" >&2; exit 1; }
"$work/venv/bin/zotune" -q train --max-steps 20 --output-dir run
"$work/venv/bin/pip" uninstall --quiet --yes zotune
[ ! -e "$work/venv/bin/zotune" ] || { echo "pip uninstall left the command" >&2; exit 1; }
echo "pip install . gives $said, and pip uninstall takes it away"
