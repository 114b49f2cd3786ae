"""The folder in which workers of a launch share what they compile: who has one, for how long, and that JAX uses it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.runs import compiling
from benchmarks.runs.executors import LocalProcesses

FOLDER = "JAX_COMPILATION_CACHE_DIR"
PROGRAM = """
import jax
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name.endswith("cache_hits")))
assert jax.jit(lambda x: x + 1)(1.0) == 2.0
print(sum(hits))
"""


def without_a_folder(backend):
    return {name: value for name, value in os.environ.items() if not name.startswith("JAX")} | {"KERAS_BACKEND": backend}


def test_what_one_worker_has_compiled_the_next_one_takes_while_the_launch_lasts(monkeypatch):
    monkeypatch.setattr(compiling, "has_devices", lambda: False)
    with LocalProcesses(1, without_a_folder("jax") | {"JAX_PLATFORMS": "cpu"}) as workers:
        shared = workers.environment
        run = dict(env=shared, capture_output=True, text=True, check=True)
        first, second = (subprocess.run([sys.executable, "-c", PROGRAM], **run).stdout for _ in "ab")
        assert list(Path(shared[FOLDER]).iterdir())
    assert int(first) == 0 < int(second)
    assert not Path(shared[FOLDER]).exists()


@pytest.mark.parametrize(
    ("environment", "has_devices"),
    [
        (without_a_folder("tensorflow"), False),
        (without_a_folder("jax"), True),
        (without_a_folder("jax") | {FOLDER: "/somewhere"}, False),
    ],
)
def test_other_environments_stay_as_they_are(environment, has_devices, monkeypatch):
    """Those of TensorFlow, of a machine where programs may be CUDA graphs, and with a folder of somebody's choice."""
    monkeypatch.setattr(compiling, "has_devices", lambda: has_devices)
    with compiling.shared_programs(environment) as shared:
        assert shared == environment
