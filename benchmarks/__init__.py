"""Runs strategies under equal budgets on real data, and tells which is better: `python -m benchmarks.run --help`."""
