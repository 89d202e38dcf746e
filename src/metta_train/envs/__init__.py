"""Environments: one at a time, many at once, in this process or in workers."""
