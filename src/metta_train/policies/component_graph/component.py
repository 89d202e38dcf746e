"""What a component of the graph is, and what it contributes to a policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from metta_train.policies.action_rows import EMBEDDING_ROWS
from metta_train.policies.initialization import Initializer
from metta_train.policies.policy import LayerSettings
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.environment_spec import EnvironmentSpec


@dataclass(frozen=True, slots=True)
class Signal:
    """What flows along an edge of the graph.

    Attributes:
        shape: without the leading dimension of rows.
        per_row: False for values that all rows share (action embeddings); those have no leading dimension.
    """

    shape: tuple[int, ...]
    per_row: bool = True

    @property
    def size(self) -> int:
        """Number of values."""
        size = 1
        for side in self.shape:
            size *= side
        return size

    def __str__(self) -> str:
        return f"{list(self.shape)}" + ("" if self.per_row else " (shared by all rows)")


@dataclass(frozen=True, slots=True)
class Site:
    """Where a component is built: its inputs in the order of its sources, and the environment."""

    inputs: tuple[Signal, ...]
    spec: EnvironmentSpec
    num_action_rows: int  # action names that own a row when the policy is built

    def one_input(self, dims: int | None = None) -> tuple[int, ...]:
        """The shape of the only input, which must be per row and have `dims` dimensions. Raises ValueError."""
        if len(self.inputs) != 1:
            raise ValueError(f"takes exactly 1 source, got {len(self.inputs)}")
        return self.row_inputs(dims)[0]

    def row_inputs(self, dims: int | None = None) -> list[tuple[int, ...]]:
        """The shapes of all inputs, which must be per row and have `dims` dimensions. Raises ValueError."""
        for signal in self.inputs:
            if not signal.per_row:
                raise ValueError(f"takes inputs per row, got {signal}")
            if dims is not None and len(signal.shape) != dims:
                raise ValueError(f"takes inputs of {dims} dimension(s), got shape {signal}")
        return [signal.shape for signal in self.inputs]


@dataclass(frozen=True, slots=True)
class Built:
    """A component's contribution to the policy.

    Attributes:
        module: registered on the policy under the component's name. Called with the inputs `[N, ...]`; an nn.LSTM
            (with `state_shapes`) is run over time by the graph.
        output: what it returns, after the activation.
        activation: applied to the module's output.
        initial_values: by name of the module's parameter.
        layer_settings: for the weight operations, where the module is an nn.Linear or nn.Conv2d.
        state_shapes: (hidden, cell) per row, for an nn.LSTM.
        action_capacity: how many action names the component has rows for.
    """

    module: nn.Module
    output: Signal
    activation: Callable[[Tensor], Tensor] | None = None
    initial_values: Mapping[str, Initializer] = field(default_factory=dict)
    layer_settings: LayerSettings | None = None
    state_shapes: tuple[tuple[int, ...], ...] = ()
    action_capacity: int = EMBEDDING_ROWS - 1


class Component(ConfigModel, ABC):
    """The settings of one component, validated, and the recipe that turns them into a module.

    A subclass declares its settings as fields; `class` and `sources` are the graph's. Its line in `library.py` makes
    it known to YAML.
    """

    @abstractmethod
    def build(self, site: Site) -> Built:
        """Make the module. Raises ValueError saying what is wrong; the graph adds the component's name."""
