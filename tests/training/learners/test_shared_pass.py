"""Learner processes against one process that does the same, and what is said when they fail."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from metta_train.envs.vector import WorkerError
from metta_train.experience.segment_buffer import Segments
from metta_train.policies.policy import Policy
from metta_train.specs.records import ActionEvaluation
from metta_train.training.batching import BatchPlan
from metta_train.training.learners import shared_pass
from metta_train.training.learners.build import build_network_pass
from metta_train.training.learners.network_pass import Gradients, NetworkInputs, OwnPass, answers_of, joined, part_of
from metta_train.training.learners.shared_pass import SharedPass
from tests.envs.test_workers import alive, assert_all_end
from tests.fakes.failing_policy import DIES, EXHAUSTS, HANGS, RAISES, FailingPolicy
from tests.fakes.small_recurrent_policy import SmallRecurrentPolicy
from tests.policies.agents import build
from tests.training.test_recording import SEGMENTS, STEPS, segments_for
from tests.training.test_update import HORIZON, VALUES, plan_of, rollout, updater

SHARES = (3, 2, 1)
OWN = slice(0, 3)
FIRST = slice(3, 5)


def share(
    policy: Policy,
    recipe: Callable[[], Policy],
    *,
    shares: tuple[int, ...] = SHARES,
    horizon: int = STEPS,
    precision: str = "fp32",
    piece_segments: int = SEGMENTS,
    check: Callable[[], None] = lambda: None,
) -> SharedPass:
    return SharedPass(
        policy,
        recipe,
        shares=shares,
        horizon=horizon,
        precision=precision,
        piece_segments=piece_segments,
        check=check,
    )


def some_grads(seed: int) -> ActionEvaluation:
    generator = torch.Generator().manual_seed(seed)
    return ActionEvaluation(*(torch.randn(SEGMENTS, STEPS, generator=generator) for _ in range(3)))


@pytest.mark.parametrize(
    ("name", "precision", "piece_segments"),
    [
        ("py_agent=fast", "fp32", SEGMENTS),
        ("agent=fast", "bf16", SEGMENTS),
        ("agent=fast", "fp32", 2),
        ("agent=mlp", "fp32", SEGMENTS),
    ],
)
def test_shares_are_what_one_process_says_of_them_to_the_bit(name: str, precision: str, piece_segments: int) -> None:
    policy, twin = build(name), build(name)
    own = OwnPass(twin, precision, piece_segments)
    with share(policy, partial(build, name), precision=precision, piece_segments=piece_segments) as learners:
        for seed in range(2):
            inputs, grads = NetworkInputs.of(segments_for(name, policy, seed)), some_grads(seed)
            gradients, sums, part = (Gradients(list(policy.parameters())) for _ in range(3))
            evaluation = learners.forward(inputs)
            playing = learners.backward(grads, gradients)
            said = []
            for rows in (OWN, FIRST, slice(5, 6)):
                said.append(own.forward(inputs.part(rows)))
                assert own.backward(part_of(grads, rows), part) == playing
                sums.flat.add_(part.flat)
            assert gradients.flat.abs().max() > 0
            for ours, theirs in zip(answers_of(evaluation), answers_of(joined(said)), strict=True):
                assert torch.equal(ours, theirs)
            for parameter, ours, theirs in zip(
                dict(policy.named_parameters()), gradients.views, sums.views, strict=True
            ):
                assert torch.equal(ours, theirs), parameter
            # Whoever moves the weights moves them for the learners too.
            with torch.no_grad():
                for parameter, other in zip(policy.parameters(), twin.parameters(), strict=True):
                    assert torch.equal(parameter, other)
                    other.mul_(0.9)
                    parameter.mul_(0.9)


@pytest.mark.parametrize("piece_segments", [8, 4, 2])
def test_a_shared_update_equals_one_process_up_to_rounding(piece_segments: int) -> None:
    policy, segments = rollout()
    before = torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])
    policies, stats = [], []
    for learners in (1, 2, 3):
        own = copy.deepcopy(policy)
        plan = replace(plan_of(minibatch_segments=8, piece_segments=piece_segments), learners=learners)
        with build_network_pass(own, partial(SmallRecurrentPolicy, policy.spec), plan) as network:
            shared = updater(own, minibatch_segments=8, network=network)
            stats.append(shared.update(segments, VALUES, 0.0).stats)
        policies.append(torch.cat([parameter.detach().flatten() for parameter in own.parameters()]))
    assert (policies[0] - before).abs().max() > 1e-3
    for other in (1, 2):
        torch.testing.assert_close(policies[other], policies[0], rtol=0, atol=1e-6)
        assert stats[other].grad_norm == pytest.approx(stats[0].grad_norm, rel=1e-5)
        assert stats[other].policy_loss == pytest.approx(stats[0].policy_loss, abs=1e-6)


def failing_pass(check: Callable[[], None] = lambda: None) -> tuple[SharedPass, Segments]:
    policy, segments = rollout()
    failing = FailingPolicy(policy.spec)
    segments = segments.select(torch.arange(SEGMENTS))
    learners = share(failing, partial(FailingPolicy, policy.spec), horizon=HORIZON, check=check)
    learners.forward(NetworkInputs.of(segments))
    ones = ActionEvaluation(*(torch.ones(SEGMENTS, HORIZON) for _ in range(3)))
    learners.backward(ones, Gradients(list(failing.parameters())))
    return learners, segments


def unlucky(segments: Segments, number: float) -> NetworkInputs:
    observations = segments.observations.clone()
    observations[FIRST] = number  # of the first learner's share
    return NetworkInputs.of(replace(segments, observations=observations))


def test_an_exception_in_a_learner_is_shown_with_its_traceback() -> None:
    learners, segments = failing_pass()
    with learners:
        with pytest.raises(WorkerError, match=r"(?s)learner 1 \(pid \d+\) failed.*failing_policy\.py.*an unlucky obs"):
            learners.forward(unlucky(segments, RAISES))
        pids = learners.pids
    assert_all_end(pids)


def test_memory_that_runs_out_in_a_learner_is_told_as_such() -> None:
    learners, segments = failing_pass()
    with learners, pytest.raises(MemoryError, match=r"learner 1: .*can't allocate memory"):
        learners.forward(unlucky(segments, EXHAUSTS))


def test_a_learner_that_dies_is_noticed_at_once() -> None:
    learners, segments = failing_pass()
    with learners, pytest.raises(WorkerError, match=r"learner 1 .* was killed by SIGKILL; perhaps the machine ran out"):
        learners.forward(unlucky(segments, DIES))


def test_a_learner_that_died_between_steps_is_told_at_the_next_one() -> None:
    learners, segments = failing_pass()
    with learners:
        os.kill(learners.pids[1], signal.SIGKILL)
        assert_all_end(learners.pids[1:])
        with pytest.raises(WorkerError, match=r"learner 2 .* was killed by SIGKILL"):
            learners.forward(NetworkInputs.of(segments))


def test_who_waits_for_a_learner_can_be_asked_to_stop() -> None:
    asked: list[int] = []

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    learners, segments = failing_pass(check)
    asked.append(1)
    started = time.monotonic()
    with learners, pytest.raises(KeyboardInterrupt):
        learners.forward(unlucky(segments, HANGS))
    assert time.monotonic() - started < 20  # the learner would sleep for a minute
    assert_all_end(learners.pids)


def test_a_learner_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    learners, segments = failing_pass()
    monkeypatch.setattr(shared_pass, "ANSWER_SECONDS", 1.0)
    with learners, pytest.raises(WorkerError, match=r"learner 1 .* did not answer within 1 seconds"):
        learners.forward(unlucky(segments, HANGS))


def test_time_in_which_everything_was_frozen_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a paused container: the time to answer passes while nobody runs, and the trainer wakes up first."""
    learners, segments = failing_pass()
    monkeypatch.setattr(shared_pass, "ANSWER_SECONDS", 1.5)
    trainer, learner = os.getpid(), learners.pids[0]
    freeze = f"sleep 0.3; kill -STOP {trainer}; sleep 3; kill -CONT {trainer}; sleep 0.5; kill -CONT {learner}"
    os.kill(learner, signal.SIGSTOP)
    with learners, subprocess.Popen(["sh", "-c", freeze]) as outside:
        started = time.monotonic()
        learners.forward(NetworkInputs.of(segments))
        assert time.monotonic() - started > 3
        assert outside.wait(10) == 0


def test_a_learner_with_another_policy_is_refused() -> None:
    policy, _ = rollout()
    recipe = partial(SmallRecurrentPolicy, policy.spec, size=5)
    with share(policy, recipe) as learners, pytest.raises(WorkerError, match="built another policy than the trainer"):
        learners.await_start()


def test_close_ends_learners_that_still_start() -> None:
    policy, _ = rollout()
    learners = share(policy, partial(SmallRecurrentPolicy, policy.spec))
    assert all(alive(pid) for pid in learners.pids) and len(learners.pids) == 2
    started = time.monotonic()
    learners.close()
    learners.close()
    assert time.monotonic() - started < 10
    assert not any(alive(pid) for pid in learners.pids)
    with pytest.raises(AssertionError, match="ended"):
        learners.backward(some_grads(0), Gradients(list(policy.parameters())))


def test_requests_to_stop_are_the_trainers_to_handle() -> None:
    learners, segments = failing_pass()
    with learners:
        for pid in learners.pids:
            assert os.getpgid(pid) != os.getpgid(0)
            for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                os.kill(pid, kind)
        learners.forward(NetworkInputs.of(segments))


TRAINER = """
import sys
from tests.training.learners.test_shared_pass import failing_pass
learners, _ = failing_pass()
print(*learners.pids, flush=True)
sys.stdin.read()
"""


def test_learners_die_with_a_killed_trainer() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        pids = tuple(int(pid) for pid in process.stdout.readline().split())
        assert len(pids) == 2 and all(alive(pid) for pid in pids)
        process.kill()
    assert_all_end(pids)


def test_a_plan_of_one_learner_starts_no_process() -> None:
    policy, _ = rollout()
    plan: BatchPlan = plan_of(minibatch_segments=8)
    assert isinstance(build_network_pass(policy, partial(SmallRecurrentPolicy, policy.spec), plan), OwnPass)
