"""Legend of the shape letters used in annotations and docstrings.

====  ==================================================================
 B    rows of a batch (agents of the vector env, or segments of a minibatch)
 T    time steps of one call (1 in a rollout step, `bptt_horizon` in training)
 A    actions
 R    rows of the vector env: `num_envs * num_agents`
 L    steps per row in one rollout: `batch_size / R`
 S    segments of one rollout: `batch_size / bptt_horizon`
 M    tokens of one observation
 C    channels of the token box (scalar features take one, categorical ones `categories`)
 H,W  height and width of the observation window, in cells
====  ==================================================================

Rooms exchange batch-first tensors, `[B, T, ...]`; time-major layouts stay inside one function and carry
a `_TB` suffix.
"""
