"""A policy described in YAML: components and their sources, built once into an ordered list of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from metta_train.policies.action_rows import EMBEDDING_ROWS, ActionRows
from metta_train.policies.activated_linear import activated_linear
from metta_train.policies.component_graph.component import Built, Signal, Site
from metta_train.policies.component_graph.library import LIBRARY
from metta_train.policies.config import AgentConfig, ComponentConfig, SourceConfig
from metta_train.policies.convolution import activated_convolution
from metta_train.policies.observation import TokenBox
from metta_train.policies.policy import Policy
from metta_train.policies.recurrence import run_lstm
from metta_train.policies.settings import nearest, validated
from metta_train.policies.single_output import single_output, single_output_behind
from metta_train.policies.token_convolution import convolve_tokens
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState

OBSERVATIONS = "observations"  # what the environment shows: the source of the first component
ACTIVE_ACTIONS = "active_actions"  # the embedding rows of the active actions: the source of ActionEmbedding
ROOTS = ("value", "action")


@dataclass(frozen=True, slots=True)
class _Input:
    """Where a step finds an input: a slot, and the part of it (dim, start, length) where a source has a slice."""

    slot: int
    part: tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class _Step:
    """One component, ready to run; its output goes into the next free slot."""

    run: Callable[..., Tensor]  # the module and its activation
    inputs: tuple[_Input, ...]
    state: slice | None  # its tensors in the policy's recurrent state, for an LSTM


class ComponentGraph(Policy):
    """The policy of a `conf/agent/*.yaml`.

    A component's parameters are named after it: `fc1: {class: Linear}` has `fc1.weight` and `fc1.bias`. Steps, and so
    parameters, are ordered depth first from `value`, then `action`.
    """

    def __init__(self, spec: EnvironmentSpec, config: AgentConfig, action_names: Sequence[str] = ()) -> None:
        order = _execution_order(config.components)
        signals = {OBSERVATIONS: Signal(spec.observation.shape), ACTIVE_ACTIONS: Signal((len(spec.actions),), False)}
        rows = ActionRows()
        rows.own([*action_names, *spec.actions.names])
        built: dict[str, Built] = {}
        for name in order:
            try:
                inputs = tuple(_input_signal(s, signals) for s in _sources(config.components[name]))
                built[name] = _build(config.components[name], Site(inputs, spec, len(rows.names)))
            except ValueError as error:
                raise ValueError(f"component {name!r}: {error}") from error
            signals[name] = built[name].output
        _check_roots(signals, len(spec.actions))

        capacity = min((b.action_capacity for b in built.values()), default=EMBEDDING_ROWS - 1)
        super().__init__(spec, [shape for b in built.values() for shape in b.state_shapes], action_capacity=capacity)
        self.restore_action_names(action_names)
        taken = {*dir(self), *vars(self)}
        slots = {OBSERVATIONS: 0, ACTIVE_ACTIONS: 1}
        steps = []
        state_end = 0
        for name, component in built.items():
            if name in taken:
                raise ValueError(f"component {name!r}: the name belongs to the policy itself; choose another one")
            self.add_module(name, component.module)
            for parameter, initializer in component.initial_values.items():
                self.init_with(f"{name}.{parameter}", initializer)
            if component.layer_settings is not None:
                self.configure_layer(name, component.layer_settings)
            state_start, state_end = state_end, state_end + len(component.state_shapes)
            steps.append(
                _Step(
                    run=_runner(name, config.components, built),
                    inputs=tuple(_input(source, slots) for source in _sources(config.components[name])),
                    state=slice(state_start, state_end) if component.state_shapes else None,
                )
            )
            slots[name] = len(slots)
        self._steps = tuple(steps)
        self._value_slot, self._action_slot = (slots[root] for root in ROOTS)

    def forward(self, observations: Tensor, state: RecurrentState, resets: Tensor) -> PolicyOutput:
        rows_and_steps = resets.shape  # components see [B * T, ...], an LSTM [B, T, ...]
        slots = [observations.flatten(0, 1), self.active_rows]
        memory = list(state.tensors)
        for step in self._steps:
            inputs = [slots[i.slot] if i.part is None else slots[i.slot].narrow(*i.part) for i in step.inputs]
            if step.state is None:
                slots.append(step.run(*inputs))
            else:
                assert isinstance(step.run, nn.LSTM)
                sequence, after = run_lstm(
                    step.run,
                    inputs[0].unflatten(0, rows_and_steps),
                    RecurrentState(tuple(memory[step.state])),
                    resets,
                )
                slots.append(sequence.flatten(0, 1))
                memory[step.state] = after.tensors
        return PolicyOutput(
            logits=slots[self._action_slot].unflatten(0, rows_and_steps),
            values=slots[self._value_slot].squeeze(1).unflatten(0, rows_and_steps),
            state=RecurrentState(tuple(memory)),
        )


def _runner(name: str, components: Mapping[str, ComponentConfig], built: Mapping[str, Built]) -> Callable[..., Tensor]:
    """The module of a component and its activation; where there is a faster way to compute the same, that one.

    A convolution that alone reads a token box takes the box's tokens instead of it, and a value head that alone reads
    an activated layer takes that layer's inputs: what is between is left to the reader.
    """
    module, activation = built[name].module, built[name].activation
    if _is_left_to_its_reader(name, components, built):
        return _as_they_are
    if activation is not None and isinstance(module, nn.Linear):
        return partial(activated_linear, module, activation)
    source = next(iter(_sources(components[name]))).name
    left = built[source] if source in built and _is_left_to_its_reader(source, components, built) else None
    if isinstance(module, nn.Linear) and module.out_features == 1:
        if left is not None and isinstance(left.module, nn.Linear) and left.activation is not None:
            return partial(single_output_behind, module, left.module, left.activation)
        return partial(single_output, module)
    if isinstance(module, nn.Conv2d) and left is not None and isinstance(left.module, TokenBox):
        return partial(convolve_tokens, module, activation, left.module)
    if isinstance(module, nn.Conv2d) and activation is not None:
        return partial(activated_convolution, module, activation)
    return module if activation is None else partial(_activated, module, activation)


def _activated(module: nn.Module, activation: Callable[[Tensor], Tensor], *inputs: Tensor) -> Tensor:
    return activation(module(*inputs))


def _is_left_to_its_reader(name: str, components: Mapping[str, ComponentConfig], built: Mapping[str, Built]) -> bool:
    """Whether the only reader of a component, which reads all of it, computes it too."""
    readers = [(other, source) for other in built for source in _sources(components[other]) if source.name == name]
    if name in ROOTS or len(readers) != 1 or readers[0][1].slice is not None:
        return False
    component, reader = built[name], built[readers[0][0]]
    if isinstance(component.module, TokenBox):
        return isinstance(reader.module, nn.Conv2d)
    is_value_head = isinstance(reader.module, nn.Linear) and reader.module.out_features == 1
    plain_head = is_value_head and reader.activation is None
    return plain_head and isinstance(component.module, nn.Linear) and component.activation is not None


def _as_they_are(inputs: Tensor) -> Tensor:
    return inputs


def _build(config: ComponentConfig, site: Site) -> Built:
    if config.class_name not in LIBRARY:
        raise ValueError(f"unknown class {config.class_name!r}{nearest(config.class_name, LIBRARY)}")
    component = validated(LIBRARY[config.class_name], config.settings, f"class {config.class_name}", ("sources",))
    return component.build(site)


def _execution_order(components: Mapping[str, ComponentConfig]) -> list[str]:
    """Names in the order of execution: sources first, from the roots. Raises ValueError for an impossible graph."""
    for root in ROOTS:
        if root not in components:
            raise ValueError(f"agent: needs a component named {root!r}{nearest(root, components)}")
    for name in (OBSERVATIONS, ACTIVE_ACTIONS):
        if name in components:
            raise ValueError(f"component {name!r}: the name is taken by an input of the graph")
    done: dict[str, None] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in path:
            raise ValueError(
                f"component {name!r}: its sources form a cycle: {' <- '.join([*path[path.index(name) :], name])}"
            )
        path.append(name)
        for source in _sources(components[name]):
            if source.name in (OBSERVATIONS, ACTIVE_ACTIONS):
                continue
            if source.name not in components:
                known = [*components, OBSERVATIONS, ACTIVE_ACTIONS]
                raise ValueError(
                    f"component {name!r}: source {source.name!r} does not exist{nearest(source.name, known)}"
                )
            visit(source.name)
        done[path.pop()] = None

    for root in ROOTS:
        visit(root)
    unused = [name for name in components if name not in done]
    if unused:
        raise ValueError(f"component {unused[0]!r}: nothing leads from it to {' or '.join(ROOTS)}; remove it or use it")
    if not any(source.name == ACTIVE_ACTIONS for name in done for source in _sources(components[name])):
        raise ValueError(
            f"component 'action': its logits must belong to action names, but nothing reads {ACTIVE_ACTIONS!r}; use "
            f"ActionEmbedding with MettaActorSingleHead, or ActorLinear"
        )
    return list(done)


def _sources(component: ComponentConfig) -> Iterable[SourceConfig]:
    return [SourceConfig(name=s) if isinstance(s, str) else s for s in component.sources]


def _input_signal(source: SourceConfig, signals: Mapping[str, Signal]) -> Signal:
    signal = signals[source.name]
    if source.slice is None and source.dim is None:
        return signal
    if source.slice is None or source.dim is None:
        raise ValueError(f"source {source.name!r}: slice and dim belong together")
    if not signal.per_row or source.dim > len(signal.shape):
        raise ValueError(f"source {source.name!r}: dim {source.dim} does not exist in shape {signal}")
    start, end = source.slice
    length = signal.shape[source.dim - 1]
    if not 0 <= start < end <= length:
        raise ValueError(
            f"source {source.name!r}: slice [{start}, {end}] does not fit dim {source.dim} of {length} values"
        )
    return Signal((*signal.shape[: source.dim - 1], end - start, *signal.shape[source.dim :]))


def _input(source: SourceConfig, slots: Mapping[str, int]) -> _Input:
    if source.slice is None or source.dim is None:
        return _Input(slots[source.name], None)
    start, end = source.slice
    return _Input(slots[source.name], (source.dim, start, end - start))


def _check_roots(signals: Mapping[str, Signal], num_actions: int) -> None:
    for root, needed in (("value", Signal((1,))), ("action", Signal((num_actions,)))):
        if signals[root] != needed:
            raise ValueError(f"component {root!r}: its output must have shape {needed}, got {signals[root]}")
