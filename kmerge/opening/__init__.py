"""Looking inside: subclassed models and layers that hold others, as the graph that their `call` leaves behind."""

from kmerge.opening.converting import functional, open_models
from kmerge.opening.views import opened

__all__ = ["functional", "open_models", "opened"]
