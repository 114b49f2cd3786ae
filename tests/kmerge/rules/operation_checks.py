"""All promises on models of operations: what the verbs make of them is exact, in one table of checks for several files."""

import warnings
from pathlib import Path

import keras
import numpy as np

import kmerge
from tests import checks
from tests.checks import assert_close, outputs
from tests.models import Entry, example_inputs


def family(entry: Entry, count: int) -> list[keras.Model]:
    """Models of other weights, and other constants where the builder draws any."""
    return [_parent(entry, seed) for seed in range(count)]


@checks.once
def _parent(entry: Entry, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)  # of NumPy, too, with which builders draw
    return entry(seed)


def check_concatenate(entry: Entry, count: int) -> keras.Model:
    """The mean of the outputs, and spaces as many times as wide."""
    parents = family(entry, count)
    big = checks.check_arguments_unchanged(parents, kmerge.concatenate)
    checks.check_concatenate(entry, parents, big)
    return big


def check_again(entry: Entry) -> None:
    """What is joined can be joined again."""
    inputs, parents = example_inputs(_parent(entry, 0)), family(entry, 3)
    pairs = [kmerge.concatenate(*parents[:2]), kmerge.concatenate(*parents[1:])]
    each = [outputs(model, inputs) for model in parents]
    means = [(a + 2 * b + c) / 4 for a, b, c in zip(*each, strict=True)]
    assert_close(outputs(kmerge.concatenate(*pairs), inputs), means, 1e-5)


def _as_many_as_are_kept(gate: kmerge.HardConcreteGate) -> np.ndarray:
    return np.random.default_rng(0).permutation(gate.units) < len(gate.kept())


def check_decided(big: keras.Model, folder: Path) -> keras.Model:
    """Once gates are decided, `compress` changes nothing, and after saving and loading neither."""
    inputs = example_inputs(big)
    checks.decide(big, _as_many_as_are_kept)
    expected = outputs(big, inputs)
    student = checks.check_compress(big, inputs)
    big.save(folder / "big.keras")
    loaded = keras.models.load_model(folder / "big.keras")
    assert_close(outputs(kmerge.compress(loaded), inputs), expected, 1e-5)
    return student


def check_merge(entry: Entry, folder: Path) -> None:
    """Two parents, cut to the width of one; and one, cut to half of its width."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # where the big student starts, and what may be undecided
        student = check_decided(kmerge.merge(*family(entry, 2)), folder)
        assert [w.shape for w in student.weights] == [w.shape for w in _parent(entry, 0).weights]
        check_decided(kmerge.gate(_parent(entry, 0), 0.5), folder)
