"""The settings and fixtures of a process that runs tests, after those of tests/conftest.py."""

import gc
import os
from pathlib import Path

import hypothesis
import keras
import pytest

import tests.odd_models  # noqa: F401  (its models join the zoo, whichever file is collected first)
from kmerge.seeds import seed_of
from tests.scheduling import LONGEST, may_be_on_both, place_of
from tests.shortcuts import take_shortcuts

take_shortcuts()

# Same examples in every run: a failure found once can be found again. Building a model takes longer than any deadline.
hypothesis.settings.register_profile("kmerge", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("kmerge")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The longest units come first, so that all processes end together; they are slow, but for two networks of the zoo."""
    items.sort(key=lambda item: place_of(item.nodeid))
    for item in items:
        marked = item.get_closest_marker("both_backends")
        assert not marked or may_be_on_both(item.path), f"{item.nodeid} would not be found among those for both backends"
        in_both = "entry" in item.fixturenames and marked
        if place_of(item.nodeid) < len(LONGEST) and not in_both:
            item.add_marker(pytest.mark.slow)


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
