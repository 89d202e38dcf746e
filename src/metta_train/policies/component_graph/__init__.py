"""Policies described in YAML (`conf/agent/`): components and their sources."""
