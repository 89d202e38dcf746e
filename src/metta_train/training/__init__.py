"""The training loop and what it is made of: batches, rollouts, updates, schedules, checkpoints, the run folder."""
