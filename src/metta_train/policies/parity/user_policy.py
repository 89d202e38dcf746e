"""A policy class of the user's own, named as `package.module:Class`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch

from metta_train.policies.parity.runs import guarded
from metta_train.policies.policy import Policy
from metta_train.policies.py_agents.py_agent import PyAgent
from metta_train.policies.settings import nearest, validated
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.random_streams import derived_seed


def policy_class(path: str) -> type[Policy]:
    """Import `package.module:Class`. Raises ValueError in one line if there is no such Policy."""
    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name:
        raise ValueError(f"--policy {path}: needs the form package.module:Class")
    module = guarded(f"--policy {path}", f"importing {module_name}", lambda: importlib.import_module(module_name))
    found = vars(module).get(class_name)
    if found is None:
        classes = [
            name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, Policy)
        ]
        raise ValueError(f"--policy {path}: {module_name} has no {class_name!r}{nearest(class_name, classes)}")
    if not isinstance(found, type) or not issubclass(found, Policy):
        raise ValueError(f"--policy {path}: {class_name} is no subclass of metta_train.policies.policy.Policy")
    return found


def build_user_policy(path: str, spec: EnvironmentSpec, options: Mapping[str, Any], seed: int) -> Policy:
    """Build and initialise a user's policy, as `build_policy_from` does with ours.

    A PyAgent gets `(spec, options)`, with `options` validated by its `Options`; any other Policy gets `(spec)`.

    Raises:
        ValueError: no such class, or options that it does not take.
        UnusablePolicyError: its module or its constructor raises.
    """
    found = policy_class(path)
    if issubclass(found, PyAgent):
        settings = validated(found.Options, options, f"--policy {path}")
        make: Callable[[], Policy] = lambda: cast("Any", found)(spec, settings)  # noqa: E731
    else:
        if options:
            raise ValueError(f"--option {next(iter(options))}: {path} is no PyAgent, so it takes no options")
        make = lambda: cast("Any", found)(spec)  # noqa: E731
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "init"))
        policy = guarded(f"--policy {path}", "its constructor", make)
    guarded(f"--policy {path}", "initialize", lambda: policy.initialize(seed))
    return policy.train()
