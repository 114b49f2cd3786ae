"""The version: that of the installed package, and of a checkout that was not installed that it is unknown."""

import importlib
from importlib import metadata

import kmerge
from kmerge import version


def test_the_version_is_that_of_the_package(monkeypatch):
    assert kmerge.__version__ == version.__version__
    try:
        with monkeypatch.context() as patch:
            patch.setattr(metadata, "version", {"kmerge": "1.2.3"}.__getitem__)
            assert importlib.reload(version).__version__ == "1.2.3"

            def missing(name):
                raise metadata.PackageNotFoundError(name)

            patch.setattr(metadata, "version", missing)
            assert importlib.reload(version).__version__ == "0+unknown"
    finally:
        assert importlib.reload(version).__version__ == kmerge.__version__
