from __future__ import annotations

import pytest

from metta_train.policies.config import AgentConfig, PyAgentConfig
from metta_train.training.parity.same_network import check_same_network
from tests.policies.agents import agent_config, agent_values
from tests.policies.parity.pairs import TITLES, spec


def fast_with(component: str, **changes: object) -> AgentConfig:
    values = agent_values("agent=fast")
    values["components"][component] |= changes
    return AgentConfig.model_validate(values)


def test_the_two_fast_agents_are_the_same_network_in_both_directions() -> None:
    graph, hand = agent_config("agent=fast"), agent_config("py_agent=fast")
    check_same_network(graph, hand, spec(), TITLES)
    check_same_network(hand, graph, spec(), TITLES)


def test_settings_that_do_not_touch_the_network_may_differ() -> None:
    values = {**agent_values("py_agent=fast"), "clip_range": 1.0, "core": {"bias_init": "ones"}}
    check_same_network(agent_config("agent=fast"), PyAgentConfig.model_validate(values), spec(), TITLES)


def test_another_network_is_refused_with_the_difference() -> None:
    hand = agent_config("py_agent=fast")
    with pytest.raises(ValueError, match=r"candidate is another network than reference: .*gelu|relu instead of gelu"):
        check_same_network(fast_with("fc1", nonlinearity="nn.GELU"), hand, spec(), TITLES)
    with pytest.raises(ValueError, match=r"critic_1.weight is \[64, 128\] in reference and \[1024, 128\] in candidate"):
        check_same_network(fast_with("critic_1", nn_params={"out_features": 64}), hand, spec(), TITLES)
    with pytest.raises(ValueError, match=r"another network|cannot continue"):
        check_same_network(fast_with("core", nn_params={"hidden_size": 64, "num_layers": 2}), hand, spec(), TITLES)
