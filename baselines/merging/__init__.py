"""Rivals of merging with gates: units chosen by magnitude, layer by layer or after alignment."""
