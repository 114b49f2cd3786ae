"""The models of `benchmarks.studies.wild`, by where they come from and what they are for."""
