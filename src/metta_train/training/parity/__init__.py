"""Two policies side by side in training: gradients, weight operations, epochs, checkpoints."""
