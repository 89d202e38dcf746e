"""The env schema: closed, strict, light."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from metta_train.envs.build import environment_spec, make_vector_env
from tests.envs.env_configs import CONF, env_config

INCOMPLETE = {"mettagrid", "pettingzoo", "plugin"}  # the user says which game, environment or package


@pytest.mark.parametrize("name", sorted({path.stem for path in CONF.glob("*.yaml")} - INCOMPLETE))
def test_every_shipped_env_steps(name: str) -> None:
    config = env_config(name)
    with make_vector_env(config, num_envs=2, num_workers=0, num_slices=2, seed=1) as envs:
        assert envs.spec == environment_spec(config)
        assert envs.reset().shape == (envs.num_rows, *envs.spec.observation.shape)
        for index in range(2):
            envs.send(index, np.zeros(envs.num_rows // 2, np.int64))
            assert len(envs.receive(index).rewards) == envs.num_rows // 2


def test_mettagrid_needs_a_file() -> None:
    with pytest.raises(ValidationError, match=r"config: got null, needs the path of a MettaGrid YAML or JSON file"):
        env_config("mettagrid")


def test_pettingzoo_needs_an_id_and_a_plugin_a_name() -> None:
    with pytest.raises(ValidationError, match=r"id: needs a PettingZoo environment, e.g. env.id=sisl/pursuit_v5"):
        env_config("pettingzoo")
    with pytest.raises(ValidationError, match=r"name: needs what an installed package offers as an entry point"):
        env_config("plugin")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("forage", {"typo": 1}),
        ("forage", {"task.typo": 1}),
        ("forage", {"task.rooms": 0}),
        ("forage", {"task.rooms": "6"}),
        ("forage", {"task.name": "forrage"}),
        ("forage", {"type": "mettagrd"}),
        ("forage", {"time_limit": "none"}),
        ("forage", {"features": {"tag": {"normalisation": 1}}}),
        ("forage", {"features": {"tag": {"categories": "all"}}}),
        ("forage", {"features": {"tag": {"normalization": 0}}}),
        ("forage", {"max_steps": -1}),
        ("forage", {"step_timeout": 0}),
        ("forage", {"config": ""}),
        ("arena", {"task.mine.cooldown": -1}),
        ("gymnasium", {"max_steps": 1.5}),
        ("gymnasium", {"id": 3}),
    ],
)
def test_wrong_values_are_refused(name: str, changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        env_config(name, changes)


def test_the_schema_loads_no_environment_and_no_torch() -> None:
    heavy = ("torch", "mettagrid", "gymnasium", "numpy")
    code = f"import sys, metta_train.envs.config; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
