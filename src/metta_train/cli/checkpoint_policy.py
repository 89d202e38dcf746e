"""The policy of a checkpoint that a command line names."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from metta_train.run_config import RunConfig
from metta_train.training.checkpoint_listing import LATEST, list_checkpoints
from metta_train.training.run_catalog import RunReference

if TYPE_CHECKING:
    from metta_train.policies.policy import Policy
    from metta_train.specs.environment_spec import EnvironmentSpec
    from metta_train.training.checkpoints import Checkpoint


def load_checkpoint(reference: RunReference) -> Checkpoint:
    """The checkpoint that is meant. `latest` is the newest good one: a damaged one is passed over with a warning.

    Raises:
        CheckpointNotFoundError, DamagedCheckpointError, NoUsableCheckpointError: as their classes say.
    """
    from metta_train.training.checkpoint_files import DamagedCheckpointError
    from metta_train.training.checkpoints import NoUsableCheckpointError, load

    chosen = reference.checkpoint()
    if reference.selector not in (None, LATEST):
        return load(chosen.path)
    for info in reversed(list_checkpoints(reference.paths.checkpoints)):
        try:
            return load(info.path)
        except DamagedCheckpointError as error:
            print(f"passed over, damaged: {error}", file=sys.stderr)
    raise NoUsableCheckpointError(f"run {reference.paths.run!r} has no good checkpoint")


def policy_of(config: RunConfig, spec: EnvironmentSpec, checkpoint: Checkpoint) -> Policy:
    """The policy of a run with the weights of a checkpoint, on the CPU. Raises ValueError when they do not fit."""
    from metta_train.policies.build import build_policy_from
    from metta_train.training.training_state import restore_weights

    policy = build_policy_from(config.chosen_agent, spec, config.seed)
    restore_weights(policy, checkpoint)
    return policy
