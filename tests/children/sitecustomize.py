"""What Python imports first in processes of tests and in those they start: tests/conftest.py puts this folder on the path.

An import of Keras on TensorFlow takes five seconds of a processor, two of them for packages that Keras and TensorFlow only
look for, and that no test needs by way of them: they are not found meanwhile, and are there afterwards.
"""

import gc
import importlib.machinery
import os
import sys

HIDDEN = tuple(filter(None, os.environ.get("KMERGE_TESTS_HIDE", "").split(",")))
_LOOKED_FOR = {"jax": ("tensorflow", "keras"), "matplotlib": ("keras",), "pandas": ("keras",), "sklearn": ("keras",)}


def _begins_with_it(package: str) -> bool:
    """Whether an import of a package that looks for this one has begun and not ended."""
    if package == "jax" and os.environ.get("KERAS_BACKEND") != "tensorflow":
        return False
    specs = [getattr(sys.modules.get(other), "__spec__", None) for other in _LOOKED_FOR.get(package, ())]
    return any(getattr(spec, "_initializing", False) for spec in specs)


class FinderOfOthers(importlib.machinery.PathFinder):
    """Finds no package named in KMERGE_TESTS_HIDE, as if it were not installed."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        package = fullname.partition(".")[0]
        return None if package in HIDDEN or _begins_with_it(package) else super().find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = FinderOfOthers
gc.set_threshold(20_000, 20, 100)  # imports make much that stays
