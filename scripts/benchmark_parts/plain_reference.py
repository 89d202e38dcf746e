"""The straightforward eager trainer: what one writes on an afternoon, without care for speed.

Dense box, convolutions as they come, an LSTM that starts every segment from zero and ignores endings, sampling through
torch.distributions, advantages by a loop over time, default Adam, a statistic read after every gradient step.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from benchmark_parts.arm import Arm
from benchmark_parts.dense_network import DenseEncoder, Heads, initialize
from benchmark_parts.workload import Workload, plan_of, spec_of
from metta_train.envs.build import make_vector_env
from metta_train.training.resources import choose_device

Memory = tuple[Tensor, Tensor]


class PlainNetwork(nn.Module):
    def __init__(self, encoder: DenseEncoder, heads: Heads) -> None:
        super().__init__()
        self.encoder = encoder
        self.lstm = nn.LSTM(128, 128, num_layers=2, batch_first=True)
        self.heads = heads

    def forward(self, tokens: Tensor, state: Memory | None) -> tuple[Tensor, Tensor, Memory]:
        rows, steps = tokens.shape[:2]
        x = self.encoder(tokens.flatten(0, 1)).unflatten(0, (rows, steps))
        x, after = self.lstm(x, state)
        logits, values = self.heads(x.flatten(0, 1))
        return logits.unflatten(0, (rows, steps)), values.view(rows, steps), after


class PlainReference(Arm):
    def __init__(self, workload: Workload) -> None:
        config = workload.config()
        self._trainer = config.trainer
        self._plan = plan = plan_of(config)
        spec, observation = spec_of(config)
        self._device = device = choose_device(config.device)
        torch.set_num_threads(plan.threads)
        torch.manual_seed(workload.seed)
        self._network = PlainNetwork(DenseEncoder(observation), Heads(len(spec.actions)))
        initialize(self._network.encoder, self._network.heads, self._network.lstm, workload.seed)
        self._network.to(device)
        self._autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=workload.precision == "bf16")
        optimizer = config.trainer.optimizer
        self._optimizer = torch.optim.Adam(
            self._network.parameters(),
            lr=optimizer.learning_rate,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
        )
        self._env = make_vector_env(config.env, num_envs=plan.num_envs, num_workers=0, num_slices=1, seed=workload.seed)
        self._observations = torch.from_numpy(self._env.reset())
        self._num_actions = len(spec.actions)
        self._random = np.random.default_rng(workload.seed)
        self._reward: float | None = None

    def env_only(self) -> int:
        for _ in range(self._plan.steps):
            self._env.send(0, self._random.integers(0, self._num_actions, self._plan.rows, dtype=np.int32))
            self._observations = torch.from_numpy(self._env.receive(0).observations)
        return self._plan.batch_size

    def inference(self) -> int:
        self._collect()
        return self._plan.batch_size

    def full(self) -> int:
        observations, actions, log_probs, values, rewards, dones, last_values = self._collect()
        self._reward = rewards.mean().item()
        ppo = self._trainer.ppo
        advantages = torch.zeros_like(rewards)
        running = torch.zeros_like(last_values)
        for t in reversed(range(rewards.shape[1])):
            following = last_values if t + 1 == rewards.shape[1] else values[:, t + 1]
            delta = rewards[:, t] + ppo.gamma * following * (1 - dones[:, t]) - values[:, t]
            running = delta + ppo.gamma * ppo.gae_lambda * (1 - dones[:, t]) * running
            advantages[:, t] = running
        returns = advantages + values

        def cut(tensor: Tensor) -> Tensor:
            return tensor.reshape(-1, self._plan.bptt_horizon, *tensor.shape[2:])

        columns = [cut(x) for x in (observations, actions, log_probs, values, advantages, returns)]
        for _ in range(self._trainer.update_epochs):
            for index in torch.randperm(self._plan.segments).split(self._plan.minibatch_segments):
                self._learn(*(column[index] for column in columns))
        return self._plan.batch_size

    def parameters(self) -> int:
        return sum(p.numel() for p in self._network.parameters())

    def reward(self) -> float | None:
        return self._reward

    def _collect(self) -> tuple[Tensor, ...]:
        state = None
        columns: list[list[Tensor]] = [[] for _ in range(6)]
        with torch.no_grad():
            for _ in range(self._plan.steps):
                observations = self._observations.to(self._device).clone()
                with self._autocast:
                    logits, values, state = self._network(observations.unsqueeze(1), state)
                distribution = Categorical(logits=logits[:, 0].float())
                actions = distribution.sample()
                self._env.send(0, actions.cpu().numpy())
                step = self._env.receive(0)
                self._observations = torch.from_numpy(step.observations)
                dones = step.terminations | step.truncations
                for column, tensor in zip(
                    columns,
                    (
                        observations,
                        actions,
                        distribution.log_prob(actions),
                        values[:, 0].float(),
                        torch.from_numpy(step.rewards.copy()).to(self._device),
                        torch.from_numpy(dones.astype(np.float32)).to(self._device),
                    ),
                    strict=True,
                ):
                    column.append(tensor)
            with self._autocast:
                last = self._network(self._observations.to(self._device).unsqueeze(1), state)[1][:, 0]
        return (*(torch.stack(column, dim=1) for column in columns), last.float())

    def _learn(
        self, observations: Tensor, actions: Tensor, old: Tensor, values: Tensor, advantages: Tensor, returns: Tensor
    ) -> None:
        ppo = self._trainer.ppo
        with self._autocast:
            logits, new_values, _ = self._network(observations, None)
        distribution = Categorical(logits=logits.float())
        ratio = (distribution.log_prob(actions) - old).exp()
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        policy_loss = torch.max(
            -advantages * ratio, -advantages * ratio.clamp(1 - ppo.clip_coef, 1 + ppo.clip_coef)
        ).mean()
        clipped = values + (new_values.float() - values).clamp(-ppo.vf_clip_coef, ppo.vf_clip_coef)
        value_loss = 0.5 * torch.max((new_values.float() - returns) ** 2, (clipped - returns) ** 2).mean()
        loss = policy_loss + ppo.vf_coef * value_loss - ppo.ent_coef * distribution.entropy().mean()
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), ppo.max_grad_norm)
        self._optimizer.step()
        loss.item()
