"""The version of kmerge, as its package was installed."""

from importlib import metadata


def _installed() -> str:
    try:
        return metadata.version("kmerge")
    except metadata.PackageNotFoundError:  # a checkout that is on the path, but was not installed
        return "0+unknown"


__version__ = _installed()
