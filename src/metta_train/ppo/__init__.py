"""The mathematics of PPO: pure functions, tensors in, tensors out."""
