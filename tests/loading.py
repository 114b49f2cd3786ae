"""One process that never imports kmerge loads the models that tests have saved, for as long as the session lasts."""

import atexit
import functools
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

_LOAD = """
import sys
from pathlib import Path
import keras, numpy as np
for path in map(Path, map(str.strip, sys.stdin)):
    inputs = list(np.load(path.with_suffix(".inputs.npz")).values())
    model = keras.models.load_model(path)
    values = keras.tree.flatten(model(inputs[0] if len(inputs) == 1 else inputs, training=False))
    np.savez(path.with_suffix(".outputs.npz"), *[keras.ops.convert_to_numpy(value) for value in values])
    assert "kmerge" not in sys.modules
    print("loaded", path, flush=True)
"""


@functools.cache
def _loader() -> tuple[subprocess.Popen, Path]:
    """The process, and the file that it writes its errors to."""
    folder = tempfile.TemporaryDirectory()
    errors = Path(folder.name) / "errors"
    command = [sys.executable, "-c", _LOAD]
    with errors.open("w") as file:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True)
    atexit.register(folder.cleanup)
    atexit.register(process.communicate)  # runs first; the process ends with its input
    return process, errors


def outputs_where_kmerge_is_unknown(paths: Iterable[Path]) -> list[list]:
    """The outputs of each model `a.keras` for the inputs in `a.inputs.npz`."""
    found, (process, errors) = [], _loader()
    for path in paths:
        print(path, file=process.stdin, flush=True)
        while (line := process.stdout.readline().strip()) != f"loaded {path}":
            if not line and process.poll() is not None:
                _loader.cache_clear()
                raise AssertionError(f"{path.name} did not load where kmerge is unknown:\n{errors.read_text()[-2000:]}")
        with np.load(path.with_suffix(".outputs.npz")) as arrays:
            found.append(list(arrays.values()))
    return found
