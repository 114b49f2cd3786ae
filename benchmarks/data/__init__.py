"""Data sets: read, decoded once, split and augmented."""
