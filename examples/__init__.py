"""Whole jobs as a user would write them, each run as `python -m examples.NAME`."""
