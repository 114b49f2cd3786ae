"""A worker whose runs only sleep; see `benchmarks.scheduling`."""

import sys

from benchmarks.scheduling import work

if __name__ == "__main__":
    work([argument for argument in sys.argv[1:] if not argument.startswith("--") and argument != "1"])
