"""A folder in which the workers of a launch leave the programs that they compiled to those that come after them.

This is JAX's persistent compilation cache, for as long as a launch lasts; docs/development/speed.md says why not TensorFlow's.
On a machine with a GPU or TPU there is none: programs from that cache failed where CUDA graphs were switched on, see
docs/benchmark/offline_gpu.md. This module does not import Keras.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping

from benchmarks.runs.preloading import has_devices

_FOLDER = "JAX_COMPILATION_CACHE_DIR"
# Small ones too: a network is built with some fifty of them.
_ALL = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


@contextlib.contextmanager
def shared_programs(environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """While this lasts, the environment of workers that share what they compile, where they can; a folder of the caller's
    choice goes before ours.
    """
    if environment.get("KERAS_BACKEND") != "jax" or _FOLDER in environment or has_devices():
        yield dict(environment)
        return
    with tempfile.TemporaryDirectory(prefix="kmerge-programs-", ignore_cleanup_errors=True) as folder:
        yield {**_ALL, **environment, _FOLDER: folder}
