from __future__ import annotations

import sys

import pytest
import torch

from metta_train.policies import py_agents
from metta_train.policies.build import build_policy_from
from metta_train.policies.config import PyAgentConfig
from metta_train.policies.py_agents.fast import Fast
from metta_train.policies.py_agents.registry import py_agent_class, py_agent_names

from ..agents import agent_values, token_spec

ONE_FILE = """
import torch
from metta_train.policies.py_agents.py_agent import PyAgent
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.records import PolicyOutput

class Options(ConfigModel):
    bonus: float

class Mine(PyAgent):
    Options = Options

    def __init__(self, spec, options):
        super().__init__(spec, state_shapes=())
        self.layer = torch.nn.Linear(1, 1)
        self.bonus = options.bonus

    def forward(self, observations, state, resets):
        raise NotImplementedError
"""


@pytest.fixture
def agent_file(tmp_path, monkeypatch):
    """Write py_agents/mine.py into a folder that the package also looks in."""

    def write(source: str) -> None:
        (tmp_path / "mine.py").write_text(source)
        monkeypatch.setattr(py_agents, "__path__", [*py_agents.__path__, str(tmp_path)])
        monkeypatch.delitem(sys.modules, f"{py_agents.__name__}.mine", raising=False)

    yield write
    sys.modules.pop(f"{py_agents.__name__}.mine", None)


def build(**values):
    common = {"agent_type": "mine", "clip_range": 0, "analyze_weights_interval": 1}
    return build_policy_from(PyAgentConfig.model_validate({**common, **values}), token_spec(), seed=0)


def test_names_come_from_the_files():
    assert py_agent_names() == ("fast",)
    assert py_agent_class("fast") is Fast


@pytest.mark.parametrize("name", ["fats", "registry", "py_agent", "../fast", ""])
def test_an_unknown_agent_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"py_agent.agent_type: no agent .*fast"):
        py_agent_class(name)


def test_one_file_adds_an_agent(agent_file):
    agent_file(ONE_FILE)
    assert py_agent_names() == ("fast", "mine")
    policy = build(bonus=2.5)
    assert policy.bonus == 2.5
    assert policy.action_names == token_spec().actions.names


def test_parameters_that_an_agent_does_not_declare_are_drawn_from_the_seed(agent_file):
    agent_file(ONE_FILE)
    first, second = (build(bonus=0).state_dict()["layer.weight"] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bonsu": 1.0, "bonus": 1.0}, r"py_agent=mine: unknown key 'bonsu'; did you mean 'bonus'\?"),
        ({"cliprange": 1.0, "bonus": 1.0}, r"py_agent=mine: unknown key 'cliprange'; did you mean 'clip_range'\?"),
        ({}, r"py_agent=mine: key 'bonus' is missing"),
        ({"bonus": "much"}, r"py_agent=mine: bonus: got 'much'"),
    ],
)
def test_an_agents_own_options_are_checked(agent_file, values, message):
    agent_file(ONE_FILE)
    with pytest.raises(ValueError, match=message):
        build(**values)


@pytest.mark.parametrize(("source", "found"), [("", "0"), (ONE_FILE + "\nclass Other(Mine): ...\n", "2")])
def test_a_file_must_define_exactly_one_agent(agent_file, source, found):
    agent_file(source)
    with pytest.raises(
        ValueError, match=rf"py_agents/mine.py defines {found} subclasses of PyAgent, needs exactly one"
    ):
        py_agent_class("mine")


def test_options_of_fast():
    values = agent_values("py_agent=fast")
    with pytest.raises(ValueError, match=r"py_agent=fast: unknown key 'core.bias_int'; did you mean 'bias_init'\?"):
        build_policy_from(PyAgentConfig.model_validate({**values, "core": {"bias_int": "ones"}}), token_spec(), 0)
