"""A complete trainer config for tests; every test changes what it is about."""

from __future__ import annotations

from metta_train.training.config import TrainerConfig

CONSTANT = {"type": "constant"}


def trainer_config(**changes: object) -> TrainerConfig:
    """Sizes auto, schedules constant, everything optional off."""
    values: dict[str, object] = {
        "total_timesteps": 10_000,
        "batch_size": "auto",
        "minibatch_size": "auto",
        "max_minibatch_size": "auto",
        "bptt_horizon": 8,
        "update_epochs": 1,
        "nonfinite": "stop",
        "num_envs": "auto",
        "num_workers": "auto",
        "async_factor": "auto",
        "forward_pass_minibatch_target_size": 96,
        "precision": "fp32",
        "cuda_graphs": False,
        "grad_mean_variance_interval": 0,
        "optimizer": {
            "type": "adam",
            "learning_rate": 1e-3,
            "beta1": 0.9,
            "beta2": 0.999,
            "eps": 1e-12,
            "weight_decay": 0.0,
        },
        "ppo": {
            "clip_coef": 0.1,
            "ent_coef": 0.01,
            "gae_lambda": 0.916,
            "gamma": 0.977,
            "max_grad_norm": 0.5,
            "vf_clip_coef": 0.1,
            "vf_coef": 0.44,
            "l2_reg_loss_coef": 0.0,
            "l2_init_loss_coef": 0.0,
            "norm_adv": True,
            "clip_vloss": True,
            "target_kl": None,
        },
        "prioritized_experience_replay": {"prio_alpha": 0.0, "prio_beta0": 0.6},
        "vtrace": {"vtrace_rho_clip": 1.0, "vtrace_c_clip": 1.0},
        "hyperparameter_scheduler": {
            "learning_rate_schedule": CONSTANT,
            "ppo_clip_schedule": CONSTANT,
            "ppo_ent_coef_schedule": CONSTANT,
            "ppo_vf_clip_schedule": CONSTANT,
            "ppo_l2_reg_loss_schedule": CONSTANT,
            "ppo_l2_init_loss_schedule": CONSTANT,
        },
        "checkpoint": {
            "checkpoint_interval": 50,
            "wandb_checkpoint_interval": 0,
            "keep_last": 3,
            "keep_best": 1,
            "keep_every": 0,
        },
        "simulation": {"evaluate_interval": 0, "num_episodes": 1, "suite": None},
        "initial_policy": {"uri": None},
        "profiler": {"interval_epochs": 0},
    }
    return TrainerConfig.model_validate({**values, **changes})
