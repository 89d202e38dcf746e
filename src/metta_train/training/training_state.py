"""Everything of a training that changes and must survive: into a checkpoint and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue, TypeAdapter, ValidationError
from torch import Tensor

from metta_train.envs.episode_log import VectorSnapshot
from metta_train.policies.policy import Policy
from metta_train.policies.weights import WeightAnchors
from metta_train.specs.random_streams import derived_seed
from metta_train.specs.records import EvaluationScores, Progress
from metta_train.specs.recurrent_state import RecurrentState
from metta_train.training import checkpoint_files, checkpoints
from metta_train.training.checkpoint_files import CheckpointState
from metta_train.training.checkpoint_listing import BY_REWARD
from metta_train.training.checkpoints import Checkpoint
from metta_train.training.optimizers import PolicyOptimizer
from metta_train.training.random_states import global_random_states, restore_global_generators
from metta_train.training.rollout import RowMemory

_ANCHOR = "anchor/"
_RESETS = "rows/resets"
_ROW_STATE = "rows/state/"
_ENVS = "envs/"

_EVALUATION = TypeAdapter(EvaluationScores)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the loop stands between two epochs, besides weights, optimizer and random streams.

    Attributes:
        progress: the counters.
        evaluation: the last scores; they are reported until there are newer ones.
        latest_saved_epoch: the last epoch that was saved because its turn had come.
        reward: mean episode reward of the last epoch in which a comparable episode ended.
    """

    progress: Progress = field(default_factory=Progress)
    evaluation: EvaluationScores | None = None
    latest_saved_epoch: int = 0
    reward: float | None = None


@dataclass(frozen=True, slots=True)
class KeptState:
    """A training between two epochs, in copies: what comes after does not change it."""

    standing: Standing
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    anchors: Mapping[str, Tensor]
    random_states: Mapping[str, Tensor]
    memory: RowMemory


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The living parts of one training.

    Attributes:
        policy: on its device.
        optimizer: of the policy's parameters.
        anchors: the weights that clip limits and the l2-init loss refer to.
        generators: by name; their states are part of a checkpoint.
        agent: what the weights belong to, e.g. "fast".
        seed: of the run.
        data_seed: of environments and sampling; differs from `seed` after a rollback.
    """

    policy: Policy
    optimizer: PolicyOptimizer
    anchors: WeightAnchors
    generators: Mapping[str, torch.Generator]
    agent: str
    seed: int
    data_seed: int | None = None

    def keep(self, standing: Standing, memory: RowMemory) -> KeptState:
        """Copies of everything, on its device. A moment's work: a checkpoint can be written from it at any time."""
        return KeptState(
            standing=standing,
            model=_copies(self.policy.state_dict()),
            optimizer=_copies(self.optimizer.state_tensors()),
            anchors=self.anchors.copies(),
            random_states={name: generator.get_state() for name, generator in self.generators.items()}
            | global_random_states(self.policy.active_rows.device),
            memory=memory,
        )

    def checkpoint_files(self, progress: Progress) -> dict[str, bytes]:
        """Files of a checkpoint of the training itself, without the rows of an environment; nothing is written."""
        none = torch.zeros(0, dtype=torch.bool)
        kept = self.keep(Standing(progress), RowMemory(none, RecurrentState(())))
        return checkpoint_files.render(kept.model, kept.optimizer, self._checkpoint_state(kept, {}, None))

    def save(
        self,
        folder: Path,
        kept: KeptState,
        envs: VectorSnapshot,
        wandb_run_id: str | None,
        recent_rewards: Sequence[float] = (),
    ) -> Path:
        """Write a checkpoint; returns its folder. Raises as `checkpoints.save`."""
        tensors = {_RESETS: kept.memory.resets}
        tensors |= {f"{_ROW_STATE}{index}": tensor for index, tensor in enumerate(kept.memory.state.tensors)}
        tensors |= {
            f"{_ENVS}episodes": torch.from_numpy(envs.episodes),
            f"{_ENVS}lengths": torch.from_numpy(envs.lengths),
            f"{_ENVS}actions": torch.from_numpy(envs.actions),
            f"{_ENVS}digests": torch.from_numpy(envs.digests),
        }
        state = self._checkpoint_state(kept, tensors, wandb_run_id, recent_rewards)
        return checkpoints.save(folder, kept.model, kept.optimizer, state)

    def _checkpoint_state(
        self,
        kept: KeptState,
        tensors: Mapping[str, Tensor],
        wandb_run_id: str | None,
        recent_rewards: Sequence[float] = (),
    ) -> CheckpointState:
        return CheckpointState(
            progress=kept.standing.progress,
            action_names=self.policy.action_names,
            agent=self.agent,
            environment=self.policy.spec.name,
            wandb_run_id=wandb_run_id,
            metadata=_metadata(self, kept.standing, recent_rewards),
            random_states=kept.random_states,
            tensors={**tensors, **{f"{_ANCHOR}{name}": tensor for name, tensor in kept.anchors.items()}},
        )

    def restore(self, checkpoint: Checkpoint, *, random_streams: bool = True) -> None:
        """Take over a checkpoint of the same agent and environment; its random streams too, unless others are wanted.

        Raises:
            ValueError: its weights, optimizer or actions do not fit, with the difference.
        """
        restore_weights(self.policy, checkpoint)
        self.optimizer.load_state_tensors(dict(checkpoint.optimizer))
        anchors = {
            name.removeprefix(_ANCHOR): tensor
            for name, tensor in checkpoint.state.tensors.items()
            if name.startswith(_ANCHOR)
        }
        self.anchors.load(anchors)
        if random_streams:
            self._restore_random_states(checkpoint)

    def _restore_random_states(self, checkpoint: Checkpoint) -> None:
        states = checkpoint.state.random_states
        for name, generator in self.generators.items():
            saved = states.get(name)
            if saved is not None and saved.shape == generator.get_state().shape:
                generator.set_state(saved)
                continue
            # Each kind of device has generators of its own.
            step = checkpoint.state.progress.agent_step
            generator.manual_seed(derived_seed(self.seed, "continued", step, name))
            logger.warning(
                "the random stream %r was saved on another kind of device: it starts anew, so the run does not go on "
                "to the bit",
                name,
            )
        restore_global_generators(states, self.policy.active_rows.device)


def standing_of(checkpoint: Checkpoint) -> Standing:
    """Where the loop stood."""
    state = checkpoint.state
    metadata = state.metadata
    saved_epoch, reward = metadata.get("latest_saved_epoch"), metadata.get("reward")
    return Standing(
        progress=state.progress,
        evaluation=_evaluation_of(metadata.get("evaluation")),
        latest_saved_epoch=saved_epoch if isinstance(saved_epoch, int) else state.progress.epoch,
        reward=reward if isinstance(reward, float) else None,
    )


def recent_rewards_of(checkpoint: Checkpoint) -> tuple[float, ...]:
    """What `RecentRewards` goes on from."""
    metadata = checkpoint.state.metadata
    saved = metadata.get("recent_rewards", [metadata.get("reward")])
    return tuple(reward for reward in saved if isinstance(reward, float)) if isinstance(saved, list) else ()


def data_seed_of(checkpoint: Checkpoint) -> int | None:
    """The seed of environments and sampling, where it differs from the run's."""
    seed = checkpoint.state.metadata.get("data_seed")
    return seed if isinstance(seed, int) else None


def envs_of(checkpoint: Checkpoint) -> VectorSnapshot | None:
    """Where the environments stood; None when the checkpoint does not tell."""
    saved = checkpoint.state.tensors
    names = [f"{_ENVS}{name}" for name in ("episodes", "lengths", "actions", "digests")]
    if not all(name in saved for name in names):
        return None
    episodes, lengths, actions, digests = (saved[name].numpy() for name in names)
    known = int(np.maximum(lengths, 0).sum())
    if not (len(episodes) == len(lengths) == len(digests) and len(actions) == known):
        raise ValueError(f"{checkpoint.path}: its environments do not fit each other; use another run name")
    return VectorSnapshot(episodes, lengths, actions, digests)


def memory_of(checkpoint: Checkpoint, fresh: RowMemory, opened: Tensor) -> RowMemory:
    """What the rows carried.

    Args:
        checkpoint: of the same agent.
        fresh: of a run that starts; taken where the checkpoint has another number of rows or another state.
        opened: [R] bool: rows whose env opened a new episode instead of going on.
    """
    saved = checkpoint.state.tensors
    states = [name for name in saved if name.startswith(_ROW_STATE)]
    tensors = [saved[f"{_ROW_STATE}{index}"] for index in range(len(states))]
    fits = _RESETS in saved and [t.shape for t in tensors] == [t.shape for t in fresh.state.tensors]
    if not fits or saved[_RESETS].shape != fresh.resets.shape:
        return fresh
    device = fresh.resets.device
    return RowMemory(
        resets=saved[_RESETS].to(device) | opened,
        state=RecurrentState(tuple(tensor.to(device) for tensor in tensors)).zero_where(opened),
    )


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _metadata(state: TrainingState, standing: Standing, recent_rewards: Sequence[float]) -> dict[str, JsonValue]:
    score, scored_by = _score(standing, recent_rewards)
    metadata: dict[str, JsonValue] = {
        "seed": state.seed,
        "latest_saved_epoch": standing.latest_saved_epoch,
        "reward": standing.reward,
        "recent_rewards": list(recent_rewards),
        "score": score,
        "scored_by": scored_by,
    }
    if state.data_seed is not None:
        metadata["data_seed"] = state.data_seed
    scores = standing.evaluation
    if scores is not None:
        metadata["evaluation"] = _EVALUATION.dump_python(scores, mode="json")
        metadata[f"eval_{scores.category}/score"] = scores.score
    return metadata


def _score(standing: Standing, recent_rewards: Sequence[float]) -> tuple[float | None, str | None]:
    """What checkpoints are compared by, and what it is: evaluation, or reward in a run that does not evaluate."""
    scores = standing.evaluation
    if scores is None:
        smoothed = sum(recent_rewards) / len(recent_rewards) if recent_rewards else standing.reward
        return smoothed, None if smoothed is None else BY_REWARD
    if scores.epoch != standing.progress.epoch:
        return None, None
    alone = [of_one.environment for of_one in scores.environments] in ([], [scores.category])
    return scores.score, f"{'environment' if alone else 'suite'} {scores.category}"


def _evaluation_of(saved: JsonValue) -> EvaluationScores | None:
    with suppress(ValidationError):
        return _EVALUATION.validate_python(saved)
    return None


def restore_weights(policy: Policy, checkpoint: Checkpoint) -> None:
    """Weights and action rows only, as for a warm start.

    Raises:
        ValueError: parameters that the checkpoint lacks, has too many, or in another shape.
    """
    own = policy.state_dict()
    differences = _differences(own, checkpoint.model)
    if differences:
        raise ValueError(f"{checkpoint.path} does not fit this agent and environment: {_listed(differences)}")
    policy.restore_action_names(checkpoint.state.action_names)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(checkpoint.model[name])


def copy_weights(source: Policy, target: Policy) -> None:
    """Give `target`, built for another environment, the weights of `source`; nothing to do for the same policy.

    Raises:
        ValueError: parameters that one of them lacks, or has in another shape.
    """
    if source is target:
        return
    own, given = target.state_dict(), source.state_dict()
    differences = _differences(own, given)
    if differences:
        raise ValueError(_listed(differences))
    target.restore_action_names(source.action_names)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])


def _listed(differences: list[str]) -> str:
    return "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")


def _differences(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> list[str]:
    found = [f"{name} is missing there" for name in own if name not in saved]
    found += [f"{name} is unknown here" for name in saved if name not in own]
    found += [
        f"{name} is {list(saved[name].shape)} there and {list(tensor.shape)} here"
        for name, tensor in own.items()
        if name in saved and saved[name].shape != tensor.shape
    ]
    return found
