"""Gradients, weight operations and training of equal and of unequal policies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metta_train.policies.parity.findings import Section
from metta_train.policies.policy import LayerSettings, Policy
from metta_train.specs.action_table import ActionTable
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.specs.records import PolicyOutput
from metta_train.specs.recurrent_state import RecurrentState
from metta_train.training.parity.compare import SECTIONS, Comparison, Side, compare_policies
from metta_train.training.parity.synthetic_env import SyntheticEnv
from tests.fakes.fast_mutants import SplitFast
from tests.fakes.ported_fast import NAMES, PortedFast
from tests.policies.agents import build, vector_spec
from tests.policies.parity.pairs import spec
from tests.training.trainer_config import trainer_config

# SplitFast computes what the shipped agents do, but without their shorter ways.
ROUNDING = {"forward": 1e-6, "backward": 1e-6, "weights": 1e-6}


def sections(candidate: Policy, reference: str = "agent=fast", **changes: object) -> dict[str, Section]:
    comparison = Comparison(
        **{
            "names": {},
            "trainer": trainer_config(update_epochs=2),
            "clip_range": 0.0,
            "device": torch.device("cpu"),
            "seed": 0,
            "epochs": 2,
            **changes,
        }
    )
    candidate.initialize(3)
    ours = Side("ours", build(reference, candidate.spec, seed=3))
    return {s.name: s for s in compare_policies(ours, Side("theirs", candidate.train()), comparison)}


def small() -> EnvironmentSpec:
    return spec(num_features=5, num_tokens=30, actions=ActionTable.discrete(["a", "b", "c"]))


def test_the_two_fast_agents_are_equal_in_every_section() -> None:
    found = sections(build("py_agent=fast", small()), clip_range=0.5)
    assert tuple(found) == SECTIONS
    assert all(section.holds and section.largest_difference == 0.0 for section in found.values())
    assert {m.subject for m in found["backward"].measurements} == dict(
        build("agent=fast", small()).named_parameters()
    ).keys()
    assert "byte-identical" in found["training"].summary


def test_every_penalty_and_optimizer_keeps_them_equal() -> None:
    trainer = trainer_config(
        optimizer={**trainer_config().optimizer.model_dump(), "type": "muon", "weight_decay": 0.1},
        ppo={**trainer_config().ppo.model_dump(), "l2_reg_loss_coef": 0.01, "l2_init_loss_coef": 0.01},
        prioritized_experience_replay={"prio_alpha": 0.5, "prio_beta0": 0.6},
    )
    found = sections(build("py_agent=fast", small()), trainer=trainer, sections=("backward", "training"))
    assert list(found) == ["structure", "backward", "training"]
    assert all(section.holds for section in found.values())


def test_a_policy_without_memory() -> None:
    found = sections(build("agent=mlp", vector_spec()), reference="agent=mlp")
    assert all(section.holds for section in found.values())


def test_another_spelling_of_the_network_is_equal_within_rounding() -> None:
    tolerances = dict.fromkeys(("forward", "backward", "weights"), 1e-5) | {"training": 1e-2}
    found = sections(PortedFast(small()), names=NAMES, tolerances=tolerances)
    different = [name for name, section in found.items() if not section.holds]
    assert different == ["initialisation"], {name: found[name].findings[:2] for name in different}
    assert "other names" in found["training"].summary


class DetachedCritic(SplitFast):
    """The critic does not train the memory."""

    def critic_input(self, encoded: Tensor, memory: Tensor) -> Tensor:
        return memory.detach()


class FrozenEmbeddings(SplitFast):
    def embeddings(self) -> Tensor:
        return self.action_embeds(self.active_rows).detach()


class StateWithoutGradient(SplitFast):
    """No gradient through time."""

    def remember(self, x: Tensor, state: RecurrentState, resets: Tensor) -> tuple[Tensor, RecurrentState]:
        outputs = []
        for step in range(x.shape[1]):
            part = slice(step, step + 1)
            output, state = super().remember(x[:, part], state.detach(), resets[:, part])
            outputs.append(output)
        return torch.cat(outputs, dim=1), state


def test_a_gradient_that_is_missing_is_found_where_the_forward_pass_is_equal() -> None:
    found = sections(FrozenEmbeddings(small()), sections=("forward", "backward"), tolerances=ROUNDING)
    assert found["forward"].holds
    assert [(f.subject, f.causes[0].kind) for f in found["backward"].findings] == [("action_embeds.weight", "detached")]

    found = sections(DetachedCritic(small()), sections=("forward", "backward"), tolerances=ROUNDING)
    assert found["forward"].holds
    # the last parameter that differs comes first: everything in front of the critic
    assert found["backward"].findings[0].subject.startswith("core.")
    untouched = {"critic_1", "value", "actor_1", "action", "action_embeds"}
    assert not untouched & {finding.subject.rpartition(".")[0] for finding in found["backward"].findings}

    found = sections(StateWithoutGradient(small()), sections=("forward", "backward"), tolerances=ROUNDING)
    assert found["forward"].holds and not found["backward"].holds


class OwnLinear(nn.Module):
    """nn.Linear that is none."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class UnseenLayer(SplitFast):
    def __init__(self, environment: EnvironmentSpec) -> None:
        super().__init__(environment)
        self.add_module("fc1", OwnLinear(self.get_parameter("fc1.weight"), self.get_parameter("fc1.bias")))


class UnclippedLayer(SplitFast):
    def __init__(self, environment: EnvironmentSpec) -> None:
        super().__init__(environment)
        self.configure_layer("critic_1", LayerSettings(clip_scale=0.0))


def test_layers_that_weight_operations_do_not_see_are_named() -> None:
    found = sections(UnseenLayer(small()), sections=("forward", "weights"), tolerances=ROUNDING)
    assert found["forward"].holds
    assert "fc1 is no layer of theirs" in found["weights"].findings[0].message

    found = sections(UnclippedLayer(small()), sections=("forward", "weights"), tolerances=ROUNDING)
    messages = [finding.message for finding in found["weights"].findings]
    assert messages[0] == "clip_scale of critic_1 is 0.0 against 1.0"
    assert "clipped critic_1" in {finding.subject for finding in found["weights"].findings}


class SlowlyWrong(SplitFast):
    """Equal at first; a bias that is never trained shows in training alone."""

    def forward(self, observations: Tensor, state: RecurrentState, resets: Tensor) -> PolicyOutput:
        output = super().forward(observations, state, resets)
        fixed = self.value.bias.detach() - self.value.bias
        return PolicyOutput(output.logits, output.values + fixed, output.state)


def test_drift_in_training_is_reported_with_epoch_and_parameter() -> None:
    section = sections(SlowlyWrong(small()), sections=("training",))["training"]
    assert section.findings[0].message.startswith("after epoch 1 the weights differ")
    assert section.findings[1].subject == "checkpoint"
    drift = [m.difference for m in section.measurements if m.subject.startswith("weights after")]
    assert len(drift) == 2 and all(d is not None and d > 0 for d in drift)


def test_synthetic_env_uses_the_whole_contract_and_is_a_function_of_its_seed() -> None:
    def play(seed: int) -> list[Tensor]:
        env = SyntheticEnv(small(), num_envs=3, seed=seed)
        seen = [torch.from_numpy(env.reset())]
        ends = {"terminations": 0, "truncations": 0}
        for _ in range(60):
            env.send(0, torch.zeros(env.num_rows, dtype=torch.int64).numpy())
            step = env.receive(0)
            seen.append(torch.from_numpy(step.observations))
            ended = step.terminations | step.truncations
            assert step.final_rows.tolist() == ended.nonzero()[0].tolist()
            assert len(step.final_observations) == len(step.final_rows) == 4 * len(step.episodes)
            ends["terminations"] += int(step.terminations.sum())
            ends["truncations"] += int(step.truncations.sum())
        assert min(ends.values()) > 0
        return seen

    first, second, other = play(1), play(1), play(2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))
