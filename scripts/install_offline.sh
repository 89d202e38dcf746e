#!/usr/bin/env bash
# Install metta-train from the wheels of scripts/collect_wheels.sh, without network access, beside the torch that the
# machine has.
#
#   scripts/install_offline.sh FOLDER
set -euo pipefail

folder=${1:?usage: $0 FOLDER}
python=${PYTHON:-python3}

"$python" -c 'import torch' || { echo "this Python has no torch; install the one for this machine first" >&2; exit 1; }
# --no-deps: the versions were resolved when the wheels were collected, and torch stays the machine's own.
"$python" -m pip install --no-index --no-deps "$folder"/*.whl
"$python" - <<'PY'
import torch
from metta_train import load_config
from metta_train.ppo import puffer_kernel

load_config(["run=check"])
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
missing = "does not fit this torch; scripts/build_puffer_kernel.py compiles it (PuffeRL needs it, metta-train has its own)"
kernel = "works" if puffer_kernel.available(device) else missing
print(f"torch {torch.__version__} on {device}; PufferLib's advantage kernel {kernel}")
PY
