"""A training that takes one step and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metta_train.assembly.design import check_kind_of_agent, design_of, recipe_of
from metta_train.assembly.policy import take_initial_weights
from metta_train.assembly.streams import RANK, SAMPLING, generator_of
from metta_train.envs.build import make_vector_env
from metta_train.reporting.redaction import redact_config
from metta_train.run_config import RunConfig
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.training.batching import BatchPlan
from metta_train.training.checkpoint_listing import newest_checkpoint
from metta_train.training.config_changes import check_config_changes, config_changes
from metta_train.training.learners.build import build_network_pass
from metta_train.training.memory import ExpectedMemory, expected_memory
from metta_train.training.resources import choose_device, measure_resources
from metta_train.training.run_paths import RunPaths
from metta_train.training.saved_config import read_config
from metta_train.training.stopping import StopRequest


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a training would be. Everything was built and one step was taken; nothing was written.

    Attributes:
        spec: of the environment.
        device: where it would train, for people.
        plan: the sizes.
        parameters: of each layer that is trained.
        memory: what it would take.
        free_memory: bytes of the device, before anything was built.
        continues_at: agent steps of the checkpoint that it would continue from; None for a new run.
    """

    spec: EnvironmentSpec
    device: str
    plan: BatchPlan
    parameters: tuple[tuple[str, int], ...]
    memory: ExpectedMemory
    free_memory: int
    continues_at: int | None


def rehearse(config: RunConfig, stop: StopRequest | None = None) -> Rehearsal:
    """Build what `train` would build, and let every agent act once.

    Raises:
        ValueError: something in the configuration does not fit, or the run of this name cannot go on with it.
        WorkerError: the environments do not start or step.
    """
    stop = StopRequest() if stop is None else stop
    paths = RunPaths.locate(config.data_dir, config.run)
    saved = newest_checkpoint(paths.checkpoints) if config.restart == "resume" else None
    if saved is not None and (before := read_config(paths)) is not None:
        check_config_changes(config.run, config_changes(before, redact_config(config.plain())))
    free_memory = measure_resources(choose_device(config.device)).free_memory
    design = design_of(config)
    policy, plan = design.policy, design.plan
    if saved is not None:
        check_kind_of_agent(design, read_config(paths))
    else:
        take_initial_weights(config, policy)
    with make_vector_env(
        config.env,
        num_envs=plan.num_envs,
        num_workers=plan.num_workers,
        num_slices=plan.num_slices,
        seed=config.seed,
        rank=RANK,
        check=stop.check,
    ) as env:
        observations = torch.from_numpy(env.reset()).to(design.device)
        generator = generator_of(config.seed, design.device, SAMPLING)
        resets = torch.ones(env.num_rows, dtype=torch.bool, device=design.device)
        with torch.no_grad():
            step = policy.act(observations, policy.initial_state(env.num_rows), resets, generator)
        actions = step.actions.cpu().numpy()
        for index in range(env.num_slices):
            env.send(index, actions[env.slice_rows(index)])
        for index in range(env.num_slices):
            env.receive(index)
        with build_network_pass(policy, recipe_of(design), plan, stop.check) as network:
            network.await_start()
            memory = expected_memory(policy, design.spec, plan, config.trainer.optimizer.type)
    layers: dict[str, int] = {}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            layer = name.rpartition(".")[0] or name
            layers[layer] = layers.get(layer, 0) + parameter.numel()
    return Rehearsal(
        spec=design.spec,
        device=design.device_name,
        plan=plan,
        parameters=tuple(layers.items()),
        memory=memory,
        free_memory=free_memory,
        continues_at=None if saved is None else saved.agent_step,
    )
