"""The benchmark's worker, whose epochs sleep instead of training; see `benchmarks.studies.arithmetic`."""

import sys

from benchmarks.runs import worker
from benchmarks.studies.arithmetic import calculate

if __name__ == "__main__":
    calculate(seconds_per_epoch=0.01, seconds_between_writes=0.2)
    sys.exit(worker.main())
