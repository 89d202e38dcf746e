"""Storage of one rollout and the minibatches drawn from it."""
