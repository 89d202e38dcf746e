"""What a search watches: a program that writes metrics like a training, in no time.

    trial_program.py FOLDER SCORE [EPOCHS] [fail | endless | deaf | silent]

An epoch is 10 agent steps. TERM ends it with 75, as it ends metta-train.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    folder, score, epochs, how = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if how == "deaf" else lambda *_: sys.exit(75))
    with (folder / "metrics.jsonl").open("a") as file:
        for epoch in range(1, epochs + 1):
            metrics = {"metric/agent_step": 10.0 * epoch, "metric/total_time": 2.0 * epoch}
            if how != "silent":
                metrics["overview/reward"] = score
            file.write(json.dumps(metrics) + "\n")
            file.flush()
    if how == "fail":
        print("epoch 1 went well\ntrainer.batch_size=7: needs another number", file=sys.stderr)
        return 2
    while how in ("endless", "deaf"):
        time.sleep(0.02)
    return 0


if __name__ == "__main__":
    sys.exit(main())
