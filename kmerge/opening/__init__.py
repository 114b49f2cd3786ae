"""Looking inside: subclassed models and layers that hold others, as the graph that their `call` leaves behind."""

from kmerge.opening.converting import functional

__all__ = ["functional"]
