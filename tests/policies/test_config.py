import pytest
from pydantic import ValidationError

from metta_train.policies.config import AgentConfig, ComponentConfig, PyAgentConfig

from .agents import ALL_AGENTS, agent_config, agent_values


@pytest.mark.parametrize("name", ALL_AGENTS)
def test_a_dumped_config_reads_back_as_the_same(name):
    config = agent_config(name)
    assert type(config).model_validate(config.model_dump()) == config


def test_settings_are_the_keys_of_the_class():
    component = ComponentConfig.model_validate({"class": "LSTM", "sources": ["x"], "bias_init": "ones"})
    assert component.settings == {"bias_init": "ones"}


def test_options_are_the_keys_of_the_agent():
    config = PyAgentConfig.model_validate(agent_values("py_agent=fast"))
    assert config.options == {"core": {"bias_init": "forget"}}
    assert (config.clip_range, config.analyze_weights_interval) == (0, 300)


def test_both_fast_agents_have_the_same_common_values():
    graph, by_hand = agent_config("agent=fast"), agent_config("py_agent=fast")
    assert (graph.clip_range, graph.analyze_weights_interval) == (by_hand.clip_range, by_hand.analyze_weights_interval)


@pytest.mark.parametrize("source", [{"name": "x", "slice": [1]}, {"name": "x", "dim": 0}, {"nam": "x"}, 3])
def test_sources_are_checked(source):
    with pytest.raises(ValidationError):
        AgentConfig.model_validate(
            {
                "clip_range": 0,
                "analyze_weights_interval": 0,
                "components": {"value": {"class": "Linear", "sources": [source]}},
            }
        )
