"""Code in processes of their own, which are copies of one that has imported Keras: the import takes longest."""

import atexit
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks.studies.zoo import outputs_elsewhere

# It makes no tensor, so that TensorFlow has no thread that a copy would lack.
_COPIED = """
import json, os, sys, traceback
from tests.shortcuts import take_shortcuts
take_shortcuts()
for line in sys.stdin:
    code, arguments, log = json.loads(line)
    copy = os.fork()
    if copy == 0:
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), stream)
        sys.argv[1:] = arguments
        try:
            exec(code, {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]), flush=True)
"""


@functools.cache
def _copied() -> tuple[subprocess.Popen, Path]:
    """The process, and a file for what its copies print."""
    folder = tempfile.TemporaryDirectory()
    process = subprocess.Popen([sys.executable, "-c", _COPIED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(folder.cleanup)
    atexit.register(process.communicate)  # runs first; the process ends with its input
    return process, Path(folder.name) / "log"


def run_elsewhere(code: str, *arguments: object) -> None:
    """Runs code where Keras is imported and has made nothing yet, with these arguments in `sys.argv[1:]`."""
    process, log = _copied()
    log.write_text("")
    print(json.dumps([code, [*map(str, arguments)], str(log)]), file=process.stdin, flush=True)
    status = process.stdout.readline().strip()
    assert status == "0", f"status {status or process.wait()} elsewhere:\n{log.read_text()[-2000:]}"


def outputs_where_kmerge_is_unknown(paths: Iterable[Path], layers_of: Path | None = None) -> list[list]:
    """The outputs of each model `a.keras` for the inputs in `a.inputs.npz`.

    Args:
        paths: of the models.
        layers_of: a file that defines layers of the user's own, if the models have such.
    """
    layers = layers_of.read_text() if layers_of else ""
    return outputs_elsewhere(paths, lambda code, *arguments: run_elsewhere(layers + code, *arguments))
