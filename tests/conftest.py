"""Settings that must stand before Keras is imported, and the fixtures that every test file may use."""

import gc
import importlib.machinery
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
# One thread for each process: pytest runs as many processes as there are cores, and the sums of a reduction have one order.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# XLA takes longer to optimize a small program than the program to run. At level 0 a scan rounds float16 otherwise than a step.
# The older of JAX's two ways to write fused loops takes a quarter less time; with TensorFlow's XLA it takes more.
_on_jax = os.environ.get("KERAS_BACKEND") == "jax"
_loops = " --xla_cpu_use_fusion_emitters=false" if _on_jax else ""
os.environ.setdefault("XLA_FLAGS", f"--xla_backend_optimization_level=1{_loops}")
# A program of JAX is compiled once in a session: many tests train the same small networks, and all processes share a folder.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="kmerge-tests-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


HIDDEN = tuple(filter(None, os.environ.get("KMERGE_TESTS_HIDE", "").split(",")))


class _FinderOfOthers(importlib.machinery.PathFinder):
    """Finds no package named in KMERGE_TESTS_HIDE, as if it were not installed."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname.partition(".")[0] in HIDDEN else super().find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = _FinderOfOthers

import hypothesis  # noqa: E402
import keras  # noqa: E402
import pytest  # noqa: E402

import tests.odd_models  # noqa: E402, F401  (its models join the zoo, whichever file is collected first)
from kmerge.seeds import seed_of  # noqa: E402
from tests.scheduling import LONGEST, by_unit, place_of  # noqa: E402
from tests.shortcuts import take_shortcuts  # noqa: E402

take_shortcuts()

# Same examples in every run: a failure found once can be found again. Building a model takes longer than any deadline.
hypothesis.settings.register_profile("kmerge", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("kmerge")


def pytest_report_header():
    hidden = "".join(f", without {package}" for package in HIDDEN)
    return f"keras {keras.__version__} on {keras.backend.backend()}{hidden}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The longest units come first, so that all processes end together; they are slow, but for two networks of the zoo."""
    items.sort(key=lambda item: place_of(item.nodeid))
    for item in items:
        in_both = "entry" in item.fixturenames and item.get_closest_marker("both_backends")
        if place_of(item.nodeid) < len(LONGEST) and not in_both:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return by_unit(config, log)


@pytest.fixture(autouse=True)
def seeded(request):
    """Every test starts from a seed of its own name, whatever ran before it."""
    keras.utils.set_random_seed(seed_of("test", request.node.nodeid))


@pytest.fixture(autouse=True, scope="module")
def fresh_session():
    """Layer names count from zero in every file, and the models of the last file are freed."""
    keras.utils.clear_session()
    gc.freeze()  # what outlives a file, as imports do, needs no look at each later collection


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data sets, as tensorflow-datasets lays them out."""
    folder = os.environ.get("KMERGE_DATA_DIR")
    if not folder:
        pytest.skip("KMERGE_DATA_DIR is not set: it names a folder with cifar100 and fashion_mnist prepared by tfds")
    if not Path(folder).is_dir():
        pytest.fail(f"KMERGE_DATA_DIR is {folder!r}, which is not a folder")
    return Path(folder)


@pytest.fixture(scope="session")
def image_cache(tmp_path_factory) -> Path:
    """A cache for the real data sets, each decoded once in a process."""
    return tmp_path_factory.mktemp("image-cache")
