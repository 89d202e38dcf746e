"""One workload, the same for every arm: environment, sizes and coefficients of a run of ours."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from metta_train import load_config
from metta_train.envs.build import environment_spec
from metta_train.envs.config import MettaGridEnvConfig
from metta_train.run_config import RunConfig
from metta_train.specs.environment_spec import EnvironmentSpec, TokenObservation
from metta_train.training.batching import BatchPlan, plan_batches
from metta_train.training.resources import choose_device, measure_resources

ENDLESS = 10**12


@dataclass(frozen=True, slots=True)
class Workload:
    """Overrides of our command line say it all; the other arms read the numbers from the composed config."""

    overrides: tuple[str, ...]
    precision: str  # fp32 or bf16
    device: str
    data_dir: str
    seed: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Workload:
        values = json.loads(text)
        return cls(**{**values, "overrides": tuple(values["overrides"])})

    def config(self) -> RunConfig:
        """Endless, without checkpoints and evaluation: what is measured is collecting and learning."""
        return load_config(
            [
                "run=benchmark",
                "wandb=off",
                f"data_dir={self.data_dir}",
                f"device={self.device}",
                f"seed={self.seed}",
                f"trainer.precision={self.precision}",
                f"trainer.total_timesteps={ENDLESS}",
                "trainer.checkpoint.checkpoint_interval=1000000",
                "trainer.checkpoint.wandb_checkpoint_interval=0",
                "trainer.simulation.evaluate_interval=0",
                *self.overrides,
            ]
        )


def spec_of(config: RunConfig) -> tuple[EnvironmentSpec, TokenObservation]:
    """The spec, and its observation, which must be tokens."""
    spec = environment_spec(config.env)
    assert isinstance(config.env, MettaGridEnvConfig) and isinstance(spec.observation, TokenObservation)
    return spec, spec.observation


def plan_of(config: RunConfig) -> BatchPlan:
    return plan_batches(config.trainer, environment_spec(config.env), measure_resources(choose_device(config.device)))
