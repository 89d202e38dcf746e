"""Finds hand-written agents: `py_agents/<name>.py` is the agent `<name>`, and packages offer theirs by entry point."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import cast

from metta_train.policies import py_agents
from metta_train.policies.config import PyAgentConfig
from metta_train.policies.py_agents.py_agent import PyAgent
from metta_train.policies.settings import nearest, validated
from metta_train.specs.config_model import ConfigModel
from metta_train.specs.entry_points import AGENTS, load_offered, offered_names
from metta_train.specs.environment_spec import EnvironmentSpec

_NOT_AGENTS = {"py_agent", "registry"}


def py_agent_names() -> tuple[str, ...]:
    """The names of all hand-written agents, without importing them."""
    return tuple(sorted({*_own_names(), *offered_names(AGENTS)}))


def py_agent_class(name: str) -> type[PyAgent]:
    """The one PyAgent class that `py_agents/<name>.py` defines, or that an installed package offers.

    Raises:
        ValueError: there is none, or it is none.
    """
    offered = offered_names(AGENTS)
    if name in _own_names():
        if name in offered:
            raise ValueError(
                f"py_agent.agent_type: {name!r} is metta-train's own agent; a package offers one of this name"
            )
        return _own_class(name)
    if name not in offered:
        raise ValueError(f"py_agent.agent_type: no agent {name!r}{nearest(name, py_agent_names())}")
    try:
        found = load_offered(AGENTS, name)
    except ValueError as error:
        raise ValueError(f"py_agent.agent_type={name}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, PyAgent)):
        raise ValueError(f"py_agent.agent_type={name}: the package offers {found!r}, which is no subclass of PyAgent")
    return found


def build_py_agent(spec: EnvironmentSpec, config: PyAgentConfig) -> PyAgent:
    """Build the agent that `config` names; its weights are not yet initialised."""
    agent_class = py_agent_class(config.agent_type)
    options = validated(
        agent_class.Options,
        config.options,
        where=f"py_agent={config.agent_type}",
        also_known=PyAgentConfig.model_fields,
    )
    constructor = cast("Callable[[EnvironmentSpec, ConfigModel], PyAgent]", agent_class)
    return constructor(spec, options)


def _own_names() -> list[str]:
    return [m.name for m in pkgutil.iter_modules(py_agents.__path__) if m.name not in _NOT_AGENTS]


def _own_class(name: str) -> type[PyAgent]:
    module = importlib.import_module(f"{py_agents.__name__}.{name}")
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, PyAgent) and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise ValueError(
            f"py_agents/{name}.py defines {len(classes)} subclasses of PyAgent, needs exactly one "
            f"({', '.join(c.__name__ for c in classes) or 'none'})"
        )
    return classes[0]
