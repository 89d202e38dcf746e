"""Watching policies: episodes step by step, on the terminal, as films, replays and pages."""
