"""Evaluation of a run: its policy now and then, and the random policy to compare with."""

from __future__ import annotations

import logging

import torch

from metta_train.assembly.design import Design
from metta_train.envs.build import environment_spec
from metta_train.playback.episodes import Player
from metta_train.playback.evaluation_film import film_episode
from metta_train.policies.uniform import UniformPolicy
from metta_train.reporting.run_reporting import RunReporting
from metta_train.reporting.storage import StorageError
from metta_train.run_config import RunConfig
from metta_train.specs.records import EvaluationScores
from metta_train.training.evaluation import SEED as EVALUATION_SEED
from metta_train.training.evaluation import EvaluationEnv, evaluate
from metta_train.training.run_folder import RunFolder
from metta_train.training.stopping import StopRequest
from metta_train.training.training_state import copy_weights

logger = logging.getLogger(__name__)


def play_evaluation(
    design: Design, epoch: int, folder: RunFolder, reporting: RunReporting, stop: StopRequest
) -> EvaluationScores:
    """Play the run's policy as it is, and film an episode for wandb when it is time for one."""
    config = design.config
    simulation = config.trainer.simulation
    for env in design.evaluation_envs:
        copy_weights(design.policy, env.policy)
    seed = EVALUATION_SEED if config.suite is None else config.suite.seed
    scores = evaluate(
        design.evaluation_envs,
        category=simulation.suite or design.spec.name,
        num_episodes=simulation.num_episodes,
        seed=seed,
        device=design.device,
        epoch=epoch,
        check=stop.check_finishing,
    )
    interval = config.wandb.video_interval
    if reporting.wandb is not None and interval and epoch % interval == 0:
        shown = design.evaluation_envs[0]
        try:
            film = film_episode(
                Player(shown.policy, design.device, greedy=False, seed=seed),
                shown.config,
                title=f"{config.run}, epoch {epoch}",
                stem=folder.paths.folder / "videos" / f"epoch-{epoch:06d}",
                check=stop.check_finishing,
            )
        except StorageError as error:
            logger.warning("%s; the training goes on without this film", error)
        else:
            reporting.reporters.video_saved(film, f"eval_{scores.category}/video")
    return scores


def random_policy_score(config: RunConfig, *, num_episodes: int) -> float:
    """Mean episode reward per agent of the uniform random policy on a run's environment."""
    spec = environment_spec(config.env)
    scores = evaluate(
        [EvaluationEnv(spec.name, config.env, UniformPolicy(spec))],
        category=spec.name,
        num_episodes=num_episodes,
        seed=config.seed,
        device=torch.device("cpu"),
        epoch=0,
    )
    return scores.score
