"""Everything of a training that changes and must survive: into a checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from metta_train.policies.policy import Policy
from metta_train.policies.weights import WeightAnchors
from metta_train.specs.records import EvaluationScores, Progress
from metta_train.training import checkpoints
from metta_train.training.checkpoints import Checkpoint, CheckpointState
from metta_train.training.optimizers import PolicyOptimizer

_ANCHOR = "anchor/"


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
    """

    policy: Policy
    optimizer: PolicyOptimizer
    anchors: WeightAnchors
    generators: Mapping[str, torch.Generator]
    agent: str
    seed: int

    def save(
        self, folder: Path, progress: Progress, evaluation: EvaluationScores | None, wandb_run_id: str | None
    ) -> Path:
        """Write a checkpoint; returns its folder. Raises as `checkpoints.save`."""
        state = self._checkpoint_state(progress, evaluation, wandb_run_id)
        return checkpoints.save(folder, self.policy.state_dict(), self.optimizer.state_tensors(), state)

    def checkpoint_files(self, progress: Progress) -> dict[str, bytes]:
        """What `save` would write, by file name, without writing it."""
        state = self._checkpoint_state(progress, None, None)
        return checkpoints.render(self.policy.state_dict(), self.optimizer.state_tensors(), state)

    def _checkpoint_state(
        self, progress: Progress, evaluation: EvaluationScores | None, wandb_run_id: str | None
    ) -> CheckpointState:
        scores = {} if evaluation is None else {f"eval_{evaluation.category}/score": evaluation.score}
        return CheckpointState(
            progress=progress,
            action_names=self.policy.action_names,
            agent=self.agent,
            environment=self.policy.spec.name,
            wandb_run_id=wandb_run_id,
            metadata={"seed": self.seed, **scores},
            random_states={name: generator.get_state() for name, generator in self.generators.items()},
            tensors={f"{_ANCHOR}{name}": tensor for name, tensor in self.anchors.tensors().items()},
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint of the same agent and environment.

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
        for name, generator in self.generators.items():
            if name not in checkpoint.state.random_states:
                raise ValueError(f"{checkpoint.path} holds no state of the random stream {name!r}")
            generator.set_state(checkpoint.state.random_states[name])


def restore_weights(policy: Policy, checkpoint: Checkpoint) -> None:
    """Weights and action rows only, as for a warm start.

    Raises:
        ValueError: parameters that the checkpoint lacks, has too many, or in another shape.
    """
    own = policy.state_dict()
    differences = _differences(own, checkpoint.model)
    if differences:
        listed = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise ValueError(f"{checkpoint.path} does not fit this agent and environment: {listed}")
    policy.restore_action_names(checkpoint.state.action_names)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(checkpoint.model[name])


def _differences(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> list[str]:
    found = [f"{name} is missing there" for name in own if name not in saved]
    found += [f"{name} is unknown here" for name in saved if name not in own]
    found += [
        f"{name} is {list(saved[name].shape)} there and {list(tensor.shape)} here"
        for name, tensor in own.items()
        if name in saved and saved[name].shape != tensor.shape
    ]
    return found
