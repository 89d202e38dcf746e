"""`metta-train`."""

from __future__ import annotations


def main() -> int:
    """Run the command line; the result is the exit code."""
    return 0
