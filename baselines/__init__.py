"""Rivals of merging: published methods and plain training, one file each, all trained through `baselines.protocol.phases`."""
