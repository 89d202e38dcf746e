#!/usr/bin/env bash
# Collect the wheels of metta-train and of everything it needs but torch, on a machine with network access, for
# scripts/install_offline.sh on a machine without. Run it with the Python version of the target machine.
#
#   scripts/collect_wheels.sh FOLDER
set -euo pipefail

folder=${1:?usage: $0 FOLDER}
repository=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}

mkdir -p "$folder"
"$python" -m pip wheel --no-deps --wheel-dir "$folder" "$repository"
# The target has its own torch, built for its GPU; torch and what only torch needs stay behind.
resolved=$(mktemp)
trap 'rm -f "$resolved"' EXIT
"$python" -m pip install --dry-run --ignore-installed --quiet --report "$resolved" "$repository"
"$python" - "$resolved" <<'PY' >"$folder/requirements.txt"
import json
import sys

BROUGHT_BY_TORCH = ("torch", "triton", "nvidia-", "cuda-")
for item in json.load(open(sys.argv[1]))["install"]:
    name, version = item["metadata"]["name"].lower(), item["metadata"]["version"]
    if name != "metta-train" and not name.startswith(BROUGHT_BY_TORCH):
        print(f"{name}=={version}")
PY
"$python" -m pip wheel --no-deps --wheel-dir "$folder" --requirement "$folder/requirements.txt"
echo "$(find "$folder" -name '*.whl' | wc -l) wheels in $folder; on the target: scripts/install_offline.sh $folder"
