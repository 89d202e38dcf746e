"""What `scripts/benchmark.py` measures: one module per arm, and the process that serves an arm."""
