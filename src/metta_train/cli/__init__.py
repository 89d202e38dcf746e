"""The command line: parse, compose, call, exit code."""
