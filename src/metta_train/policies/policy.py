"""The interface between training and a network; one `forward` serves rollout and training alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor, nn

from metta_train.policies.action_distribution import log_probs_and_entropy, sample
from metta_train.policies.action_rows import EMBEDDING_ROWS, ActionRows
from metta_train.policies.initialization import Initializer
from metta_train.policies.recurrence import outputs_alone
from metta_train.specs.action_table import ActionTable
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.random_streams import derived_seed
from metta_train.specs.records import ActionEvaluation, PolicyOutput, PolicyStep
from metta_train.specs.recurrent_state import RecurrentState


@dataclass(frozen=True, slots=True)
class WeightLayer:
    """One nn.Linear or nn.Conv2d, as the weight operations of `policies/weights.py` see it."""

    name: str  # canonical, e.g. "fc1"
    weight: nn.Parameter
    clip_scale: float  # factor of this layer's clip limit; 0 = never clipped
    l2_init_scale: float  # factor of this layer in the l2-init loss
    analyze: bool  # reported by weight_metrics


@dataclass(frozen=True, slots=True)
class LayerSettings:
    """How the weight operations treat one layer."""

    clip_scale: float = 1.0
    l2_init_scale: float = 1.0
    analyze: bool = True


class Policy(nn.Module, ABC):
    """A recurrent actor-critic. A subclass builds layers in `__init__` and implements `forward`.

    A policy runs in one mode: dropout passes its input on and batch norm uses its stored statistics, in rollout and
    in training, because PPO's ratio compares log-probs of the same network.

    Attributes:
        spec: the environment that the policy was built for.
        state_shapes: shape per row of each tensor of the recurrent state; empty for a policy without memory.
        action_rows: which embedding row each action name owns.
        active_rows: int64 `[A]`, the rows of the actions of the active table, in its order.
    """

    active_rows: Tensor

    def __init__(
        self,
        spec: EnvironmentSpec,
        state_shapes: Sequence[tuple[int, ...]],
        *,
        action_capacity: int = EMBEDDING_ROWS - 1,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.state_shapes = tuple(tuple(shape) for shape in state_shapes)
        self.action_rows = ActionRows(action_capacity)
        self._initial_values: dict[str, Initializer] = {}
        self._layer_settings: dict[str, LayerSettings] = {}
        self.register_buffer("active_rows", torch.empty(0, dtype=torch.int64), persistent=False)
        self.activate_actions(spec.actions)

    @abstractmethod
    def forward(self, observations: Tensor, state: RecurrentState, resets: Tensor) -> PolicyOutput:
        """Run T steps of B rows.

        Args:
            observations: `[B, T, ...]` as the spec says; never written to.
            state: the memory before the first step.
            resets: bool `[B, T]`; true means that this observation opens an episode: the memory of the row is zeroed
                before the observation is consumed.
        """

    @final
    def initial_state(self, rows: int, device: torch.device | None = None) -> RecurrentState:
        """Zeros for `rows` rows, on the policy's device unless told otherwise."""
        device = self.active_rows.device if device is None else device
        return RecurrentState(tuple(torch.zeros(rows, *shape, device=device) for shape in self.state_shapes))

    @final
    def act(
        self, observations: Tensor, state: RecurrentState, resets: Tensor, generator: torch.Generator | None = None
    ) -> PolicyStep:
        """Sample one action per row of `observations[B, ...]`; noise comes from `generator` alone."""
        output = self(observations.unsqueeze(1), state, resets.unsqueeze(1))
        actions, log_probs = sample(output.logits.squeeze(1), generator)
        return PolicyStep(
            actions=actions, log_probs=log_probs, values=output.values.squeeze(1).float(), state=output.state
        )

    @final
    def evaluate_actions(
        self, observations: Tensor, actions: Tensor, state: RecurrentState, resets: Tensor
    ) -> ActionEvaluation:
        """Log-probs and entropy of stored `actions[B, T]` under the present weights."""
        with outputs_alone():
            output = self(observations, state, resets)
        log_probs, entropy = log_probs_and_entropy(output.logits, actions)
        return ActionEvaluation(log_probs=log_probs, entropy=entropy, values=output.values.float())

    @property
    def action_names(self) -> tuple[str, ...]:
        """Every action name that owns a row, in order of first activation; what a checkpoint stores."""
        return self.action_rows.names

    @final
    def activate_actions(self, table: ActionTable) -> None:
        """Make action k of `table` the meaning of logit k; names that the policy knows keep their rows.

        Raises:
            ValueError: more names than rows; nothing is changed then.
        """
        rows = self.action_rows.rows_of(table)
        self.active_rows = torch.tensor(rows, dtype=torch.int64, device=self.active_rows.device)

    @final
    def restore_action_names(self, names: Sequence[str]) -> None:
        """Own rows in the order of a checkpoint's `action_names`, then activate the spec's actions again.

        Raises:
            ValueError: more names than rows; nothing is changed then.
        """
        rows = self.action_rows.emptied()
        rows.own([*names, *self.spec.actions.names])
        self.action_rows = rows
        self.activate_actions(self.spec.actions)

    @final
    def init_with(self, parameter: str, initializer: Initializer) -> None:
        """Declare the initial values of a parameter by its canonical name, e.g. `"cnn1.weight"`."""
        self._initial_values[parameter] = initializer

    @final
    def initialize(self, seed: int) -> None:
        """Fill every declared parameter; its values depend on (seed, canonical name) alone.

        Parameters that the policy does not declare keep the values of their constructor, which `build_policy_from`
        runs with torch's generator seeded from the same seed.
        """
        parameters = dict(self.named_parameters())
        unknown = sorted(set(self._initial_values) - set(parameters))
        assert not unknown, f"initial values declared for parameters that do not exist: {unknown}"
        with torch.no_grad():
            for name, initializer in self._initial_values.items():
                generator = torch.Generator().manual_seed(derived_seed(seed, "init", name))
                values = torch.empty(parameters[name].shape)
                initializer.fill(values, generator)
                parameters[name].copy_(values)

    @final
    def configure_layer(self, name: str, settings: LayerSettings) -> None:
        """Say how the weight operations treat the layer `name`; a layer without settings has the defaults."""
        self._layer_settings[name] = settings

    @final
    def weight_layers(self) -> tuple[WeightLayer, ...]:
        """Every nn.Linear and nn.Conv2d, in order of registration."""
        layers = []
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                settings = self._layer_settings.get(name, LayerSettings())
                weight = module.weight
                assert isinstance(weight, nn.Parameter)
                layers.append(WeightLayer(name, weight, settings.clip_scale, settings.l2_init_scale, settings.analyze))
        return tuple(layers)

    @final
    def train(self, mode: bool = True) -> Self:
        """Keep the one mode of a policy (see the class); `mode` has no effect."""
        super().train(False)
        for module in self.modules():
            if isinstance(module, nn.RNNBase):
                # cuDNN computes gradients of recurrent layers in training mode only. It changes nothing else: the
                # recurrent layers of policies have no dropout.
                module.training = True
        return self
