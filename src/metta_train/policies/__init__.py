"""Policies: from observations and memory to logits and values. Built from an EnvironmentSpec, never from an env."""
