"""PufferLib's own trainer, PuffeRL of pufferlib-core, on the same game, network and sizes.

The policy is written as PufferLib's users write one: an encoder and a decoder inside its LSTMWrapper, here with the two
layers of our network (the wrapper itself has one). Import this module in a process of its own: `pufferlib.pufferl`
takes SIGINT for itself.
"""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pufferlib.models
import pufferlib.pufferl
import pufferlib.vector
import torch
from mettagrid.envs.mettagrid_puffer_env import MettaGridPufferEnv
from mettagrid.simulator import Simulator
from torch import Tensor, nn

from benchmark_parts.arm import Arm
from benchmark_parts.dense_network import DenseEncoder, Heads, initialize
from benchmark_parts.workload import ENDLESS, Workload, plan_of, spec_of
from metta_train.envs.config import MettaGridEnvConfig
from metta_train.envs.mettagrid import load_game
from metta_train.specs.environment_spec import TokenObservation
from metta_train.training.config import OptimizerConfig
from metta_train.training.optimizers import build_optimizer

# config/default.ini of PufferLib 3.0, without what sets the size of the work. Its Muon needs heavyball, a package that
# pufferlib-core does not bring, and took 0.2 s for one matrix of 512 x 128 on the CPU, so Adam stands here.
LIBRARY_DEFAULTS = {
    "learning_rate": 0.015,
    "adam_beta1": 0.95,
    "adam_beta2": 0.999,
    "adam_eps": 1e-8,
    "update_epochs": 1,
    "gamma": 0.995,
    "gae_lambda": 0.90,
    "clip_coef": 0.2,
    "vf_clip_coef": 0.2,
    "vf_coef": 2.0,
    "ent_coef": 0.001,
    "max_grad_norm": 1.5,
    "prio_alpha": 0.8,
    "prio_beta0": 0.2,
}
ADAM_LEARNING_RATE = 2e-3  # with which Adam learned forage; that of trainer=laptop is Muon's
HIDDEN = 128
LAYERS = 2


class PufferPolicy(nn.Module):
    """What LSTMWrapper wraps."""

    is_continuous = False

    def __init__(self, observation: TokenObservation, num_actions: int) -> None:
        super().__init__()
        self.encoder = DenseEncoder(observation)
        self.heads = Heads(num_actions)

    def encode_observations(self, observations: Tensor, state: object = None) -> Tensor:
        return self.encoder(observations)

    def decode_actions(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.heads(hidden)


class TwoLayerWrapper(pufferlib.models.LSTMWrapper):
    """PufferLib's wrapper with a second layer; the trainer's state of a row holds both, side by side."""

    def __init__(self, env: object, policy: PufferPolicy, seed: int) -> None:
        super().__init__(env, policy, HIDDEN, HIDDEN)
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, num_layers=LAYERS)
        initialize(policy.encoder, policy.heads, self.lstm, seed)
        del self.cell
        self.cells = nn.ModuleList(nn.LSTMCell(HIDDEN, HIDDEN) for _ in range(LAYERS))
        for layer, cell in enumerate(self.cells):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                setattr(cell, name, getattr(self.lstm, f"{name}_l{layer}"))

    def forward_eval(self, observations: Tensor, state: dict) -> tuple[Tensor, Tensor]:
        x = self.policy.encode_observations(observations, state=state)
        hidden, cell = state["lstm_h"].chunk(LAYERS, dim=1), state["lstm_c"].chunk(LAYERS, dim=1)
        after = []
        for module, h, c in zip(self.cells, hidden, cell, strict=True):
            x, next_c = module(x, (h, c))
            after.append((x, next_c))
        state["lstm_h"] = torch.cat([h for h, _ in after], dim=1)
        state["lstm_c"] = torch.cat([c for _, c in after], dim=1)
        return self.policy.decode_actions(x)


class _StateSize(nn.Module):
    """PuffeRL allocates `policy.hidden_size` numbers of state per row; ours has two layers of them."""

    def __init__(self, wrapper: TwoLayerWrapper) -> None:
        super().__init__()
        self.wrapper = wrapper
        self.hidden_size = HIDDEN * LAYERS

    def forward_eval(self, observations: Tensor, state: dict) -> tuple[Tensor, Tensor]:
        return self.wrapper.forward_eval(observations, state)

    def forward(self, observations: Tensor, state: dict) -> tuple[Tensor, Tensor]:
        return self.wrapper(observations, state)


class OurOptimizer:
    """What PuffeRL asks of an optimizer."""

    def __init__(self, config: OptimizerConfig, policy: nn.Module, precision: str) -> None:
        self._policy = policy
        self._optimizer = build_optimizer(config, policy, precision)
        self.param_groups = [{"lr": config.learning_rate}]

    def step(self) -> None:
        self._optimizer.step()

    def zero_grad(self) -> None:
        self._policy.zero_grad()


class PuffeRLArm(Arm):
    """`backend` is Serial or Multiprocessing; `overrides` are values of PuffeRL's own config.

    Its own optimizer is Adam, with the learning rate that Adam learned best with if ours is another; with
    `our_optimizer` it gets ours.
    """

    def __init__(
        self,
        workload: Workload,
        backend: str = "Serial",
        overrides: dict[str, float] | None = None,
        *,
        our_optimizer: bool = False,
    ) -> None:
        config = workload.config()
        plan = plan_of(config)
        torch.set_num_threads(plan.threads)
        torch.set_float32_matmul_precision("high" if torch.cuda.is_available() else "highest")
        torch.manual_seed(workload.seed)
        spec, observation = spec_of(config)
        assert isinstance(config.env, MettaGridEnvConfig)
        game = load_game(config.env).config
        simulator = Simulator()

        def make_env(buf: object = None, seed: int = 0) -> MettaGridPufferEnv:
            return MettaGridPufferEnv(simulator, game, buf=buf, seed=seed)

        vector = {"backend": getattr(pufferlib.vector, backend), "num_envs": plan.num_envs}
        if backend == "Multiprocessing":
            vector["num_workers"] = max(1, os.cpu_count() or 1)
        self._vecenv = pufferlib.vector.make(make_env, **vector)
        policy = PufferPolicy(observation, len(spec.actions))
        wrapper = TwoLayerWrapper(self._vecenv.driver_env, policy, workload.seed)
        trainer, ppo = config.trainer, config.trainer.ppo
        adam = trainer.optimizer.type == "adam"
        learning_rate = trainer.optimizer.learning_rate if adam else ADAM_LEARNING_RATE
        device = "cuda" if config.device.startswith("cuda") or torch.cuda.is_available() else "cpu"
        values = {
            "env": "metta",
            "device": device,
            "seed": workload.seed,
            "torch_deterministic": False,
            "cpu_offload": False,
            "use_rnn": True,
            "compile": False,
            "compile_mode": "max-autotune-no-cudagraphs",
            "compile_fullgraph": True,
            "optimizer": "adam",
            "learning_rate": learning_rate,
            "adam_beta1": trainer.optimizer.beta1,
            "adam_beta2": trainer.optimizer.beta2,
            "adam_eps": trainer.optimizer.eps,
            "anneal_lr": False,
            "total_timesteps": ENDLESS,
            "batch_size": plan.batch_size,
            "bptt_horizon": plan.bptt_horizon,
            "minibatch_size": plan.minibatch_size,
            "max_minibatch_size": plan.max_minibatch_size,
            "update_epochs": trainer.update_epochs,
            "gamma": ppo.gamma,
            "gae_lambda": ppo.gae_lambda,
            "clip_coef": ppo.clip_coef,
            "vf_clip_coef": ppo.vf_clip_coef,
            "vf_coef": ppo.vf_coef,
            "ent_coef": ppo.ent_coef,
            "max_grad_norm": ppo.max_grad_norm,
            "prio_alpha": 0.0,
            "prio_beta0": 0.6,
            "vtrace_rho_clip": 1.0,
            "vtrace_c_clip": 1.0,
            "checkpoint_interval": ENDLESS,
            "data_dir": workload.data_dir,
            "precision": "bfloat16" if workload.precision == "bf16" else "float32",
            **(overrides or {}),
        }
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            self._trainer = pufferlib.pufferl.PuffeRL(values, self._vecenv, _StateSize(wrapper).to(device))
        if our_optimizer:
            inside = self._trainer.uncompiled_policy
            self._trainer.optimizer = OurOptimizer(trainer.optimizer, inside, workload.precision)
        if workload.precision == "bf16":
            # It enters its autocast context and never leaves it, so the bfloat16 copies of the weights that autocast
            # keeps until then are those of the first step for ever: without this it cannot learn.
            self._trainer.amp_context = torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False)
        # Its screen is not what is compared, and costs time.
        self._trainer.print_dashboard = lambda *_, **__: None
        self._rows, self._steps = plan.rows, plan.steps
        self._num_actions = len(spec.actions)
        self._random = np.random.default_rng(workload.seed)

    def env_only(self) -> int:
        for _ in range(self._steps):
            self._vecenv.recv()
            self._vecenv.send(self._random.integers(0, self._num_actions, self._rows, dtype=np.int32))
        return self._rows * self._steps

    def inference(self) -> int:
        self._trainer.evaluate()
        return self._rows * self._steps

    def full(self) -> int:
        self._trainer.evaluate()
        self._trainer.train()
        return self._rows * self._steps

    def parameters(self) -> int:
        return sum(p.numel() for p in self._trainer.uncompiled_policy.parameters())

    def reward(self) -> float | None:
        return self._trainer.rewards.mean().item()
