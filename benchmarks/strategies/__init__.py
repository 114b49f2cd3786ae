"""The names of all strategies, and those of merging with gates."""
