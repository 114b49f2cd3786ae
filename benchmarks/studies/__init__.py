"""Measurements beside the suites, a command each: `python -m benchmarks.studies.zoo --help`."""
