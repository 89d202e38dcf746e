"""Our trainer, whole: the loop of `assembly.run.train` with its reporting, as `metta-train` runs it."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch

from benchmark_parts.arm import Arm
from benchmark_parts.workload import Workload, plan_of
from metta_train.assembly.run import train
from metta_train.envs.build import environment_spec, make_vector_env
from metta_train.policies.build import build_policy_from
from metta_train.specs.records import EpochRecord
from metta_train.training.resources import choose_device
from metta_train.training.rollout import build_collector


class Ours(Arm):
    def __init__(self, workload: Workload) -> None:
        config = workload.config()
        self._plan = plan = plan_of(config)
        spec = environment_spec(config.env)
        device = choose_device(config.device)
        self._epochs: Generator[EpochRecord, None, object] = train(config)
        self._record: EpochRecord | None = None
        self._policy = build_policy_from(config.chosen_agent, spec, workload.seed).to(device)

        def envs(seed: int):  # noqa: ANN202
            return make_vector_env(
                config.env,
                num_envs=plan.num_envs,
                num_workers=plan.num_workers,
                num_slices=plan.num_slices,
                seed=seed,
            )

        self._env = envs(workload.seed + 1)
        self._env.reset()
        rng = np.random.default_rng(workload.seed)
        rows = plan.rows // plan.num_slices
        self._actions = rng.integers(0, len(spec.actions), (64, rows)).astype(np.int32)
        self._steps = 0
        generator = torch.Generator(device).manual_seed(workload.seed)
        self._collector = build_collector(envs(workload.seed + 2), self._policy, plan, generator)

    def env_only(self) -> int:
        slices = range(self._plan.num_slices)
        for step in range(self._plan.steps):
            for index in slices:
                if step > 0:
                    self._env.receive(index)
                self._steps += 1
                self._env.send(index, self._actions[self._steps % len(self._actions)])
        for index in slices:
            self._env.receive(index)
        return self._plan.batch_size

    def inference(self) -> int:
        return self._collector.collect().stats.agent_steps

    def full(self) -> int:
        self._record = next(self._epochs)
        return self._record.rollout.agent_steps

    def reward(self) -> float | None:
        return None if self._record is None else self._record.rollout.rewards

    def parameters(self) -> int:
        return sum(p.numel() for p in self._policy.parameters())
