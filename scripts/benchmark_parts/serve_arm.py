"""The process of one arm: reads requests from standard input, answers with JSON lines on standard output.

{"work": "full", "seconds": 3.0}  ->  {"agent_steps": ..., "wall": ..., "cpu": ..., "units": ...}
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback

started = time.perf_counter()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever an arm prints is no answer
    import psutil

    from benchmark_parts.arms import build_arm
    from benchmark_parts.workload import Workload

    arm = build_arm(sys.argv[1], Workload.from_json(sys.argv[2]))
    process = psutil.Process()

    def processes() -> list[psutil.Process]:
        return [process, *process.children(recursive=True)]  # env workers count

    def cpu_seconds() -> float:
        return sum(sum(one.cpu_times()[:2]) for one in processes())

    ready = {"ready": time.perf_counter() - started, "parameters": arm.parameters()}
    print(json.dumps(ready), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        work = {"env": arm.env_only, "inference": arm.inference, "full": arm.full}[request["work"]]
        arm.synchronize()
        agent_steps, units, rewards = 0, 0, []
        wall, cpu = time.perf_counter(), cpu_seconds()
        while True:
            agent_steps += work()
            units += 1
            if request["work"] == "full" and request.get("rewards"):
                rewards.append(arm.reward())
            if time.perf_counter() - wall >= request["seconds"]:
                break
        arm.synchronize()
        answer = {
            "agent_steps": agent_steps,
            "units": units,
            "wall": time.perf_counter() - wall,
            "cpu": cpu_seconds() - cpu,
            "memory": sum(one.memory_info().rss for one in processes()),
            "rewards": rewards,
        }
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    try:
        main()
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # PuffeRL has a thread that would keep the process, and whoever waits for its answer, for ever
