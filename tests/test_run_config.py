from __future__ import annotations

import ast
import copy
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from omegaconf import OmegaConf
from pydantic import BaseModel, ValidationError

import metta_train
from metta_train import load_config
from metta_train.run_config import RunConfig, takes_new_keys
from metta_train.specs.config_errors import ConfigError

SOURCE = Path(metta_train.__file__).parent


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return load_config(["run=mine", "trainer=gpu"]).plain()


def changed(plain: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    values = copy.deepcopy(plain)
    *parents, last = key.split(".")
    node = values
    for parent in parents:
        node = node[parent]
    node[last] = value
    return values


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_tree(values, "agent=fast")
    return str(caught.value)


# ----- every key is read by code


def models_in(annotation: object) -> set[type[BaseModel]]:
    """The config models inside an annotation: itself, union branches, values of a dict, items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for argument in get_args(annotation) for model in models_in(argument)}


def config_models() -> set[type[BaseModel]]:
    found: set[type[BaseModel]] = set()
    waiting: set[type[BaseModel]] = {RunConfig}
    while waiting:
        model = waiting.pop()
        found.add(model)
        waiting |= {m for field in model.model_fields.values() for m in models_in(field.annotation)} - found
    return found


def attributes_read() -> set[str]:
    """Names that any module of the product, config models apart, reads as `something.name`."""
    names: set[str] = set()
    for file in SOURCE.rglob("*.py"):
        if file.name in ("config.py", "run_config.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
    return names


def test_every_config_key_is_read_by_code() -> None:
    """A key that nothing reads has no effect, which nobody would notice.

    Method: all fields of all models reachable from RunConfig, against all attribute reads in the source outside the
    models themselves. A key whose name is also an attribute of something else can slip through; a key that was never
    connected to anything cannot. `agent` and `py_agent` are read through `RunConfig.chosen_agent`.
    """
    models = config_models()
    assert len(models) > 15, "the walk reaches the models of all rooms"
    read = attributes_read()
    assert "chosen_agent" in read
    read |= {"agent", "py_agent"}
    unread = sorted(f"{model.__name__}.{name}" for model in models for name in model.model_fields if name not in read)
    assert unread == []


# ----- what it accepts


def test_plain_values_go_around(plain: dict[str, Any]) -> None:
    config = RunConfig.from_tree(plain, "agent=fast")
    assert config.plain() == plain
    assert RunConfig.from_tree(yaml.safe_load(yaml.safe_dump(plain)), "agent=fast") == config
    assert "agent_name" not in plain and "py_agent" not in plain
    assert plain["agent"]["components"]["cnn1"]["class"] == "Conv2d"


def test_it_is_frozen(plain: dict[str, Any]) -> None:
    config = RunConfig.from_tree(plain, "agent=fast")
    with pytest.raises(ValidationError):
        config.seed = 3


def test_the_given_tree_is_not_changed(plain: dict[str, Any]) -> None:
    values = changed(plain, "trainer.total_timesteps", 1e6)
    before = copy.deepcopy(values)
    assert RunConfig.from_tree(values, "agent=fast").trainer.total_timesteps == 1_000_000
    assert values == before


@pytest.mark.parametrize(("given", "number"), [(3, 3), (3.0, 3), (1e6, 1_000_000), (2.0**53, 2**53)])
def test_whole_numbers(plain: dict[str, Any], given: float, number: int) -> None:
    config = RunConfig.from_tree(changed(plain, "trainer.total_timesteps", given), "agent=fast")
    assert config.trainer.total_timesteps == number and type(config.trainer.total_timesteps) is int


def test_whole_numbers_inside_lists_and_tagged_unions(plain: dict[str, Any]) -> None:
    values = changed(plain, "env.task.rooms", 2.0)
    values["trainer"]["num_envs"] = 4.0
    config = RunConfig.from_tree(values, "agent=fast")
    assert config.plain()["env"]["task"]["rooms"] == 2 and config.trainer.num_envs == 4


@pytest.mark.parametrize("given", [1.5, 2.0**54, float("inf"), float("nan"), True, "3"])
def test_other_values_are_no_whole_numbers(plain: dict[str, Any], given: object) -> None:
    assert refusal(changed(plain, "trainer.total_timesteps", given)).endswith("needs a whole number greater than 0")


# ----- what it refuses


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer.batch_size": 6400, "trainer.bptt_horizon": 64, "trainer.minibatch_size": 64 * 25}, None),
        (
            {"trainer.batch_size": 6401},
            "trainer.batch_size=6401: needs whole segments of trainer.bptt_horizon=64 steps; "
            "use 6400 or 6464, or trainer.batch_size=auto",
        ),
        (
            {"trainer.minibatch_size": 63},
            "trainer.minibatch_size=63: needs whole segments of trainer.bptt_horizon=64 steps; "
            "use 64, or trainer.minibatch_size=auto",
        ),
        (
            {"trainer.batch_size": 640, "trainer.minibatch_size": 1280},
            "trainer.minibatch_size=1280: needs at most trainer.batch_size=640; use that, a part of it, "
            "or trainer.minibatch_size=auto",
        ),
        (
            {"trainer.batch_size": 640, "trainer.minibatch_size": 192},
            "trainer.batch_size=640: needs a multiple of trainer.minibatch_size=192; "
            "use 576 or 768, or trainer.minibatch_size=auto",
        ),
        ({"trainer.num_envs": 12, "trainer.num_workers": 3, "trainer.async_factor": 2}, None),
        ({"trainer.num_envs": 5, "trainer.num_workers": 0, "trainer.async_factor": 1}, None),
        (
            {"trainer.num_envs": 5, "trainer.num_workers": 2, "trainer.async_factor": 2},
            "trainer.num_envs=5: needs a multiple of 4, so that each of trainer.num_workers=2 steps as many envs in "
            "each of trainer.async_factor=2 slices; use 4 or 8, or trainer.num_envs=auto",
        ),
        ({"trainer.checkpoint.checkpoint_interval": 100, "trainer.checkpoint.wandb_checkpoint_interval": 0}, None),
        (
            {"trainer.checkpoint.wandb_checkpoint_interval": 75},
            "trainer.checkpoint.wandb_checkpoint_interval=75: needs 0 (never) or a multiple of "
            "trainer.checkpoint.checkpoint_interval=50, because only saved checkpoints are uploaded; use 50 or 100",
        ),
        (
            {"trainer.simulation.evaluate_interval": 20},
            "trainer.simulation.evaluate_interval=20: needs 0 (never) or a multiple of "
            "trainer.checkpoint.checkpoint_interval=50, because the weights that are evaluated are saved; use 50",
        ),
        (
            {"wandb.video_interval": 100},
            "wandb.video_interval=100: needs 0 (never) or a multiple of trainer.simulation.evaluate_interval=200, "
            "because films show evaluations; use 200",
        ),
        (
            {"wandb.video_interval": 100, "trainer.simulation.evaluate_interval": 0},
            "wandb.video_interval=100: films show evaluations, and trainer.simulation.evaluate_interval=0 means there "
            "is none; set that too",
        ),
        (
            {"trainer.optimizer.learning_rate": 1e-5},
            "trainer.hyperparameter_scheduler.learning_rate_schedule.min_value=3e-05: needs at most the initial value, "
            "trainer.optimizer.learning_rate=1e-05; use null for a tenth of it, or type=constant",
        ),
        ({"trainer.ppo.l2_reg_loss_coef": 0.0}, None),
        ({"agent": None}, "agent, py_agent: none is chosen; choose one: agent=fast or py_agent=fast"),
        (
            {"py_agent": {"agent_type": "fast", "clip_range": 0, "analyze_weights_interval": 0}},
            "agent, py_agent: both are chosen; choose one: agent=fast or py_agent=fast",
        ),
        ({"device": "cuda:1"}, None),
        ({"device": "cuda:1 "}, "device='cuda:1 ': needs auto, cpu, cuda or cuda:<number>"),
        ({"run": "a/0"}, None),
        ({"run": 1e5}, "run=100000.0: needs a text; quote it: \"run='100000.0'\""),
        ({"agent_name": "x"}, "agent_name=x: unknown key; did you mean agent?"),
    ],
)
def test_values_that_fit_together_and_that_do_not(
    plain: dict[str, Any], changes: dict[str, object], message: str | None
) -> None:
    values = plain
    for key, value in changes.items():
        values = changed(values, key, value)
    if message is None:
        RunConfig.from_tree(values, "agent=fast")
    else:
        assert refusal(values) == message


@pytest.mark.parametrize(
    "key",
    [
        "trainer.total_timesteps", "trainer.bptt_horizon", "trainer.update_epochs", "trainer.optimizer.learning_rate",
        "trainer.ppo.clip_coef", "trainer.ppo.max_grad_norm", "trainer.vtrace.vtrace_rho_clip",
        "trainer.checkpoint.checkpoint_interval", "trainer.simulation.num_episodes", "env.task.rooms",
        "trainer.ppo.gamma", "trainer.prioritized_experience_replay.prio_beta0", "trainer.optimizer.beta1", "seed",
    ],
)  # fmt: skip
@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "abc", "", "\u00fc", "1e", True, None, [1], {"a": 1}])
def test_numbers_refuse_everything_else_and_name_the_key(plain: dict[str, Any], key: str, bad: object) -> None:
    message = refusal(changed(plain, key, bad))
    assert message.startswith(f"{key}=") and "needs a" in message and "\n" not in message


def test_an_interpolation_that_leads_nowhere() -> None:
    tree = OmegaConf.create({"run": "${nowhere}"})
    with pytest.raises(ConfigError, match=r"^run: Interpolation key 'nowhere' not found$"):
        RunConfig.from_tree(tree, "agent=fast")


def test_secrets_of_the_environment_need_an_interpolation_of_our_own_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "42")
    # A plain mapping, e.g. one read from a file, is data: nothing in it is resolved.
    values = changed(load_config(["run=x"]).plain(), "wandb.notes", "${oc.env:CANARY}")
    assert RunConfig.from_tree(values, "agent=fast").wandb.notes == "${oc.env:CANARY}"


def test_which_mappings_take_new_keys(plain: dict[str, Any]) -> None:
    assert takes_new_keys("env.features.tag.categories", plain)
    assert takes_new_keys("agent.components.cnn1.nn_params.bias", plain)
    assert takes_new_keys("agent.components.new", plain)
    assert not takes_new_keys("trainer.ppo.new", plain)
    assert not takes_new_keys("new", plain)
