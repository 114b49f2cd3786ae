"""The command line: the verbs for models that are files, with a card and a recipe beside each model that they write."""

from kmerge.commands.main import main

__all__ = ["main"]
