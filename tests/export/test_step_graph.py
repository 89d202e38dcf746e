"""The graph of one step: the same numbers as the policy, for any number of rows, and nothing changed by recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from metta_train.export.comparison import checked_difference, random_observations
from metta_train.export.mettagrid_bundle import load_step
from metta_train.export.network_source import NetworkSource, network_source
from metta_train.export.step_graph import NotExportableError, capture_step
from metta_train.policies.observation import TokenBox
from metta_train.policies.policy import Policy
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState
from tests.export.random_steps import same_steps
from tests.fakes.small_recurrent_policy import SmallRecurrentPolicy
from tests.policies.agents import ALL_AGENTS, build, spec_for, token_spec, vector_spec

Step = Callable[..., Sequence[Tensor]]


def louder(policy: Policy) -> Policy:
    """Untrained heads are almost silent; here rounding shows."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.5)
    return policy


def step_of(network: NetworkSource) -> Step:
    loaded = load_step(network)
    return lambda observations, resets, *state: loaded(observations, resets, state)


@pytest.mark.parametrize("agent", ALL_AGENTS)
def test_the_written_network_is_the_policy(agent: str) -> None:
    policy = louder(build(agent, spec_for(agent)))
    network = network_source(capture_step(policy), "a title")
    assert same_steps(policy, step_of(network)) < 1e-5
    parameters = {name for name in network.tensors if not name.startswith("graph/")}
    assert parameters == set(policy.state_dict())
    assert network.text.startswith('"""a title\n') and "metta_train" not in network.text


def test_categories_windows_and_crowded_cells_are_drawn_as_the_box_draws_them() -> None:
    policy = louder(build("agent=fast", token_spec(13, 15, num_features=6, num_tokens=40, categories={0: 4, 3: 2})))
    network = network_source(capture_step(policy), "t")
    assert same_steps(policy, step_of(network)) < 1e-5


def test_recording_leaves_the_policy_as_it_was() -> None:
    policy = build("agent=fast", token_spec())
    box = next(module for module in policy.modules() if isinstance(module, TokenBox))
    before = {name: tensor.clone() for name, tensor in policy.named_buffers()}
    capture_step(policy)
    assert type(box) is TokenBox
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.named_buffers())


def test_a_policy_of_ones_own_is_recorded_too() -> None:
    policy = SmallRecurrentPolicy(vector_spec())
    assert same_steps(policy, step_of(network_source(capture_step(policy), "t"))) < 1e-6


class Moody(Policy):
    """Does something else when the sum of what it sees is positive."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__(spec, state_shapes=())
        self.head = nn.Linear(4, 3)

    def forward(self, observations: Tensor, state: RecurrentState, resets: Tensor) -> PolicyOutput:
        outputs = self.head(-observations if bool(observations.sum() > 0) else observations)
        return PolicyOutput(outputs[..., :2], outputs[..., 2], state)


def test_a_policy_that_looks_at_values_is_refused_in_one_line() -> None:
    with pytest.raises(NotExportableError, match="torch cannot record this agent") as told:
        capture_step(Moody(vector_spec()))
    assert "\n" not in str(told.value)


def test_a_network_that_computes_something_else_is_refused() -> None:
    policy = build("agent=fast", token_spec())
    right = load_step(network_source(capture_step(policy), "t"))

    def wrong(observations: Tensor, resets: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return right(observations, torch.zeros_like(resets), state)  # forgets to forget

    assert checked_difference(policy, right, "this") < 1e-6
    with pytest.raises(NotExportableError, match="this: differs from the policy by"):
        checked_difference(louder(policy), wrong, "this")


@pytest.mark.parametrize("dtype", ["float32", "uint8", "bool", "int64"])
def test_observations_to_compare_with_have_the_type_of_the_environment(dtype: str) -> None:
    from metta_train.specs.action_table import ActionTable
    from metta_train.specs.environment_spec import BoxObservation

    spec = EnvironmentSpec("any", 1, BoxObservation((2, 3), dtype), ActionTable.discrete(["a"]))
    observations = random_observations(spec, 5, torch.Generator().manual_seed(0))
    assert observations.shape == (5, 2, 3) and str(observations.dtype) == f"torch.{dtype}"
