"""Sizes fit together, nothing is thrown away, and what cannot work says what would."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metta_train.specs.action_table import ActionTable
from metta_train.specs.environment_spec import BoxObservation, EnvironmentSpec, Feature, TokenObservation
from metta_train.training.batching import plan_batches
from metta_train.training.config import TrainerConfig
from metta_train.training.resources import Resources
from tests.training.trainer_config import trainer_config

LAPTOP = Resources(device_type="cpu", cores=2, threads=2, free_memory=8 * 2**30)
WORKSTATION = Resources(device_type="cpu", cores=8, threads=8, free_memory=32 * 2**30)
GPU = Resources(device_type="cuda", cores=16, threads=16, free_memory=100 * 2**30)


def spec(num_agents: int = 24) -> EnvironmentSpec:
    observation = TokenObservation(num_tokens=200, window_height=11, window_width=11, features=(Feature(0, "tag"),))
    return EnvironmentSpec("test", num_agents, observation, ActionTable.discrete(["noop", "move"]))


def config(**changes: object) -> TrainerConfig:
    return trainer_config(**{"bptt_horizon": 32, "forward_pass_minibatch_target_size": 192, **changes})


class TestAuto:
    def test_laptop_has_a_worker_and_one_segment_per_row(self) -> None:
        plan = plan_batches(config(), spec(), LAPTOP)
        assert (plan.num_workers, plan.num_slices, plan.num_envs) == (1, 2, 16)  # 2 x 192 rows / 24 agents
        assert plan.batch_size == 384 * 32
        assert plan.steps == 32
        assert plan.num_minibatches == 4
        assert plan.precision == "fp32"
        assert plan.threads == 2

    @pytest.mark.parametrize(
        ("cores", "minibatch", "parameters", "learners"),
        [
            (2, 1536, 557_378, 2),
            (8, 1536, 557_378, 4),  # at least 384 steps each
            (8, 3072, 557_378, 8),
            (8, 384, 557_378, 1),
            (2, 1536, 20_000, 1),  # a small network gains nothing
            (8, 64, 100_000_000, 2),  # a share is at least one segment
            (1, 1536, 557_378, 1),
        ],
    )
    def test_large_minibatches_of_large_networks_are_shared(
        self, cores: int, minibatch: int, parameters: int, learners: int
    ) -> None:
        sizes = {"num_envs": 16, "batch_size": 12288, "minibatch_size": minibatch}
        plan = plan_batches(config(**sizes), spec(), Resources("cpu", cores, cores, 2**33), parameters)
        assert plan.learners == learners
        gpu = Resources(device_type="cuda", cores=16, threads=16, free_memory=100 * 2**30)
        assert plan_batches(config(**sizes), spec(), gpu, parameters).learners == 1

    @pytest.mark.parametrize(("cores", "workers", "slices"), [(1, 0, 1), (2, 1, 2), (3, 1, 2), (8, 4, 2)])
    def test_every_machine_learns_from_the_same_batch(self, cores: int, workers: int, slices: int) -> None:
        plan = plan_batches(config(), spec(), Resources("cpu", cores, cores, 2**33))
        assert (plan.num_workers, plan.num_slices) == (workers, slices)
        assert (plan.num_envs, plan.batch_size) == (16, 384 * 32)

    @pytest.mark.parametrize(
        ("envs", "workers", "slices"), [(1, 1, 1), (5, 1, 1), (6, 3, 2), (9, 3, 1), (12, 3, 2), (14, 1, 2), (16, 4, 2)]
    )
    def test_workers_share_out_the_envs_that_were_asked_for(self, envs: int, workers: int, slices: int) -> None:
        plan = plan_batches(config(num_envs=envs), spec(), WORKSTATION)
        assert (plan.num_workers, plan.num_slices, plan.num_envs) == (workers, slices, envs)
        plan = plan_batches(config(batch_size=envs * 24 * 32), spec(), WORKSTATION)
        assert (plan.num_workers, plan.num_slices, plan.batch_size) == (workers, slices, envs * 24 * 32)

    def test_one_group_of_envs_is_half_of_two(self) -> None:
        plan = plan_batches(config(async_factor=1), spec(), LAPTOP)
        assert (plan.num_workers, plan.num_slices, plan.rows) == (1, 1, 192)

    def test_gpu_fills_its_workers_evenly(self) -> None:
        plan = plan_batches(
            config(bptt_horizon=64, num_workers=8, forward_pass_minibatch_target_size=4096), spec(), GPU
        )
        # The original's sizes (reference 6.2): 4096 rows of 24 agents on 8 workers = 168 envs per slice, 336 in all.
        assert plan.num_envs == 336
        assert plan.rows == 8064
        assert plan.batch_size == 8064 * 64
        assert plan.minibatch_size <= 16384

    def test_one_agent_envs_work_too(self) -> None:
        plan = plan_batches(config(), spec(num_agents=1), LAPTOP)
        assert plan.rows == plan.num_envs == 384


class TestGivenNumbers:
    def test_envs_follow_from_the_batch(self) -> None:
        plan = plan_batches(config(batch_size=24 * 32 * 10), spec(), LAPTOP)
        assert plan.num_envs == 10  # 16 would be the target, but only 10 divides 10 segments per agent
        assert plan.steps == 32

    def test_several_segments_per_row(self) -> None:
        plan = plan_batches(config(num_envs=2, batch_size=2 * 24 * 32 * 3, minibatch_size=2 * 24 * 32), spec(), LAPTOP)
        assert (plan.steps, plan.segments, plan.num_minibatches) == (96, 144, 3)

    def test_pieces_divide_the_minibatch(self) -> None:
        plan = plan_batches(config(num_envs=4, minibatch_size=1536, max_minibatch_size=512), spec(), LAPTOP)
        assert (plan.minibatch_segments, plan.piece_segments) == (48, 16)

    def test_a_piece_larger_than_the_minibatch_is_the_minibatch(self) -> None:
        plan = plan_batches(config(num_envs=4, max_minibatch_size=10**6), spec(), LAPTOP)
        assert plan.max_minibatch_size == plan.minibatch_size


class TestRefusals:
    """Every message holds numbers; with them the plan works."""

    def test_the_originals_batch_does_not_divide_into_24_agents(self) -> None:
        with pytest.raises(ValueError, match=r"trainer.batch_size=524288 .* use 523776 or 525312") as error:
            plan_batches(config(bptt_horizon=64, batch_size=524288), spec(), LAPTOP)
        assert "24 agents" in str(error.value)
        plan_batches(config(bptt_horizon=64, batch_size=523776), spec(), LAPTOP)
        plan_batches(config(bptt_horizon=64, batch_size=525312), spec(), LAPTOP)

    def test_batch_smaller_than_one_segment_per_row(self) -> None:
        with pytest.raises(ValueError, match=r"use 1536, or trainer.batch_size=auto"):
            plan_batches(config(num_envs=2, batch_size=100), spec(), LAPTOP)

    def test_minibatch(self) -> None:
        with pytest.raises(ValueError, match=r"trainer.minibatch_size=1000 .* use 768 or 1024"):
            plan_batches(config(num_envs=4, minibatch_size=1000), spec(), LAPTOP)

    def test_piece(self) -> None:
        with pytest.raises(ValueError, match=r"trainer.max_minibatch_size=600 .* use 512 or 768"):
            plan_batches(config(num_envs=4, minibatch_size=1536, max_minibatch_size=600), spec(), LAPTOP)

    def test_envs_that_do_not_fill_the_workers(self) -> None:
        with pytest.raises(ValueError, match=r"trainer.num_envs=5 .* use 4 or 8"):
            plan_batches(config(num_envs=5, num_workers=2, async_factor=2), spec(), LAPTOP)

    def test_memory(self) -> None:
        small = Resources(device_type="cpu", cores=2, threads=2, free_memory=10**7)
        with pytest.raises(ValueError, match=r"trainer.batch_size=\d+ needs .* GiB for the rollout buffer"):
            plan_batches(config(num_envs=16, batch_size=24 * 16 * 32), spec(), small)


@given(
    num_agents=st.integers(1, 40),
    horizon=st.sampled_from([1, 2, 8, 16, 64]),
    target=st.integers(1, 5000),
    num_workers=st.sampled_from(["auto", 0, 1, 2, 3, 7]),
    async_factor=st.sampled_from(["auto", 1, 2, 3]),
    resources=st.sampled_from([LAPTOP, WORKSTATION, GPU]),
)
def test_auto_always_fits(
    num_agents: int, horizon: int, target: int, num_workers: int | str, async_factor: int | str, resources: Resources
) -> None:
    plan = plan_batches(
        config(
            bptt_horizon=horizon,
            forward_pass_minibatch_target_size=target,
            num_workers=num_workers,
            async_factor=async_factor,
        ),
        spec(num_agents),
        resources,
    )
    assert plan.rows == plan.num_envs * num_agents
    assert plan.rows * plan.steps == plan.batch_size
    assert plan.steps % plan.bptt_horizon == 0
    assert plan.segments * plan.bptt_horizon == plan.batch_size
    assert plan.num_minibatches * plan.minibatch_size == plan.batch_size
    assert plan.minibatch_size % plan.max_minibatch_size == 0
    assert plan.num_envs % plan.num_slices == 0
    assert plan.num_workers == 0 or plan.num_envs % plan.num_workers == 0


def test_box_observations_are_sized_by_their_dtype() -> None:
    box = EnvironmentSpec("box", 1, BoxObservation((1000,), "float32"), ActionTable.discrete(["a"]))
    resources = Resources(device_type="cpu", cores=1, threads=1, free_memory=2 * 32 * 3900)
    with pytest.raises(ValueError, match="GiB"):
        plan_batches(config(num_envs=1), box, resources)  # 32 steps x 4027 bytes
    plan_batches(config(num_envs=1), box, Resources("cpu", 1, 1, 2 * 32 * 4100))


def test_auto_takes_bf16_for_token_networks_where_the_cpu_has_it():
    for has_it, precision, expected in ((True, "auto", "bf16"), (False, "auto", "fp32"), (True, "fp32", "fp32")):
        resources = replace(LAPTOP, bfloat16=has_it)
        assert plan_batches(config(precision=precision), spec(), resources).precision == expected
    box = replace(spec(), observation=BoxObservation((4,), "float32"))
    assert plan_batches(config(precision="auto"), box, replace(LAPTOP, bfloat16=True)).precision == "fp32"
