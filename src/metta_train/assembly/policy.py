"""The policy of a run, and the checkpoint that its first weights may come from."""

from __future__ import annotations

from pathlib import Path

from metta_train.policies.build import build_policy_from
from metta_train.policies.policy import Policy
from metta_train.run_config import RunConfig
from metta_train.specs.config_errors import ConfigError, nearest_path
from metta_train.specs.environment_spec import EnvironmentSpec
from metta_train.training import checkpoints
from metta_train.training.checkpoint_listing import newest_checkpoint
from metta_train.training.run_catalog import find_reference
from metta_train.training.training_state import restore_weights


def build_policy(config: RunConfig, spec: EnvironmentSpec, seed: int | None = None) -> Policy:
    """The policy of a run for any environment of its kind, on the CPU.

    Args:
        config: of which the agent is used.
        spec: what the policy may know of the environment.
        seed: of the initial weights; None takes the run's.

    Raises:
        ValueError: the agent does not fit the environment.
    """
    return build_policy_from(config.chosen_agent, spec, config.seed if seed is None else seed)


def initial_policy(config: RunConfig) -> Path | None:
    """The checkpoint to take the first weights from.

    Raises:
        ValueError: there is none at that place.
        CheckpointNotFoundError: the run that is named has none such.
    """
    uri = config.trainer.initial_policy.uri
    if uri is None:
        return None
    path = Path(uri.removeprefix("file://"))
    if not path.is_dir():
        near = nearest_path(str(path))
        missing = f"trainer.initial_policy.uri={uri}: no such folder of a checkpoint{near}"
        if near or uri.startswith(("file://", "/", ".")):
            raise ValueError(missing)
        try:
            reference = find_reference(config.data_dir, uri)
        except ConfigError as error:
            raise ValueError(f"{missing}, and {error}") from error
        return reference.checkpoint().path
    if (inside := newest_checkpoint(path / "checkpoints")) is not None:
        raise ValueError(
            f"trainer.initial_policy.uri={uri}: is a run; needs one of its checkpoints, e.g. {inside.path}"
        )
    return path


def take_initial_weights(config: RunConfig, policy: Policy) -> None:
    """Load the checkpoint of trainer.initial_policy, if there is one, into the policy."""
    path = initial_policy(config)
    if path is not None:
        restore_weights(policy, checkpoints.load(path))
