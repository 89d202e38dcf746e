"""What a run tells the outside: metrics, dashboard, wandb, and the files that record them."""
