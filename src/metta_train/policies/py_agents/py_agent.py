"""The interface of hand-written agents."""

from __future__ import annotations

from typing import ClassVar

from metta_train.policies.policy import Policy
from metta_train.specs.config_model import ConfigModel


class PyAgent(Policy):
    """A policy written by hand: `conf/py_agent/<name>.yaml` configures the class in `py_agents/<name>.py`.

    Its constructor takes `(spec, options)`, where options is an instance of `Options`.

    Attributes:
        Options: schema of the agent's own keys in its YAML.
    """

    Options: ClassVar[type[ConfigModel]]
