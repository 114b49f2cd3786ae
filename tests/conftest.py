"""Settings that must stand before Keras is imported, and how tests are shared out; tests/session.py has all else."""

import os
import runpy
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
# One thread for each process: pytest runs as many processes as there are cores, and the sums of a reduction have one order.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# XLA takes longer to optimize a small program than the program to run.
# To compile a program as a whole, and not in up to 32 parts at once, takes an eighth less time.
# The older of JAX's two ways to write fused loops takes a quarter less time; with TensorFlow's XLA it takes more.
_on_jax = os.environ.get("KERAS_BACKEND") == "jax"
_loops = " --xla_cpu_use_fusion_emitters=false" if _on_jax else ""
_whole = "--xla_cpu_parallel_codegen_split_count=1"
os.environ.setdefault("XLA_FLAGS", f"--xla_backend_optimization_level=0 {_whole}{_loops}")
# A program of JAX is compiled once in a session: many tests train the same small networks, and all processes share a folder.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="kmerge-tests-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# All processes that tests start begin with the same module as this one.
_children = str(Path(__file__).parent / "children")
if _children not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_children, os.environ.get("PYTHONPATH")]))
    runpy.run_path(f"{_children}/sitecustomize.py")

import pytest  # noqa: E402

from tests.scheduling import by_unit, may_be_on_both  # noqa: E402


def pytest_configure(config):
    """Where others run the tests, this process does without Keras, whose import would come before theirs."""
    if config.getoption("dist", "no") == "no" or hasattr(config, "workerinput"):
        config.pluginmanager.import_plugin("tests.session")


def pytest_report_header():
    hidden = "".join(f", without {package}" for package in os.environ.get("KMERGE_TESTS_HIDE", "").split(",") if package)
    return f"keras {version('keras')} on {os.environ.get('KERAS_BACKEND', 'its default backend')}{hidden}"


def pytest_ignore_collect(collection_path, config):
    """A file without tests for both backends need not be imported to know that."""
    only_both = config.getoption("markexpr") == "both_backends" and collection_path.suffix == ".py"
    return True if only_both and not may_be_on_both(collection_path) else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return by_unit(config, log)
