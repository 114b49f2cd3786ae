"""Transformers, and what stands around attention, under the contracts of every other network."""

import contextlib
import functools
from pathlib import Path

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import kmerge
from tests import checks
from tests.checks import concatenated, family, grown, halved, permuted
from tests.kmerge.merging.test_merging import assert_same_architecture, harden
from tests.kmerge.rules import attention_models
from tests.kmerge.rules.attention_cases import CASES
from tests.loading import run_elsewhere
from tests.models import JIT, example_inputs

every_case = pytest.mark.parametrize("entry", CASES.values(), ids=CASES)


# The verbs.


@every_case
def test_concatenate_is_the_mean_of_the_logits(entry):
    checks.check_concatenate(entry, family(entry), concatenated(entry))


@every_case
def test_selecting_one_parent_gives_that_parent(entry):
    checks.check_select_parent(entry, family(entry), concatenated(entry), 1)


@pytest.mark.parametrize("name", ["vit-layer", "text-batch-after", "shared_attention", "grouped_queries", "einsum_dense"])
def test_three_concatenate_and_give_one_back(name):
    entry = CASES[name]
    checks.check_concatenate(entry, family(entry, 3), concatenated(entry, 3))
    checks.check_select_parent(entry, family(entry, 3), concatenated(entry, 3), 1)


@every_case
def test_permute_and_back(entry):
    assert permuted(entry) is not family(entry)[0]


@every_case
def test_select_commutes_with_permute(entry):
    assert halved(entry) is not family(entry)[0]


@every_case
def test_grown_zero_units_change_nothing(entry):
    assert grown(entry) is not family(entry)[0]


@every_case
def test_merge_is_exact_at_open_hard_and_fractional_gates(entry):
    parents = family(entry, 2)
    inputs = example_inputs(parents[0])
    joint = "layer" in entry.name  # LayerNormalization over the open units of all parents: exact only where they are cut
    with pytest.warns(UserWarning, match="normalize over the open units") if joint else contextlib.nullcontext():
        big = kmerge.merge(*parents, gates="open")
    means = [np.mean(values, axis=0) for values in zip(*(checks.outputs(p, inputs) for p in parents), strict=True)]
    if not joint:
        checks.assert_close(checks.outputs(big, inputs), means, 1e-5)
    harden(big)
    small = kmerge.compress(big)
    checks.assert_close(checks.outputs(small, inputs), checks.outputs(big, inputs), 1e-5)
    assert_same_architecture(small, parents[0])
    if joint:
        return
    for gate in kmerge.gates_of(big):
        gate.loc.assign(np.where(gate.values() > 0, np.linspace(-1.0, 1.0, gate.units), -20.0))
    checks.assert_close(checks.outputs(kmerge.compress(big), inputs), checks.outputs(big, inputs), 1e-5)


def test_selected_transformers_load_without_kmerge(tmp_path):
    models = {}
    for name in ("vit-batch", "text-batch-after", "attention_over_rows", "grouped_queries", "patch_encoder"):
        entry = CASES[name]
        if name.startswith("text"):
            models[name] = halved(entry)
        else:
            big = concatenated(entry)
            models[name] = kmerge.select(big, {n: (size + 1) // 2 for n, size in checks.selectable(big).items()})
    checks.check_saves(models, tmp_path, Path(attention_models.__file__))


_LOAD_BIG = """
import sys, keras, kmerge
from tests.kmerge.rules import attention_cases
kmerge.compress(keras.models.load_model(sys.argv[1])).save(sys.argv[2])
"""


def test_a_saved_big_student_compresses_the_same(tmp_path):
    """In another process: the gated attention layers load with it."""
    paths = [str(tmp_path / name) for name in ("big.keras", "small.keras")]
    big = kmerge.merge(*family(CASES["vit-batch"], 2))
    harden(big)
    big.save(paths[0])
    run_elsewhere(_LOAD_BIG, *paths)
    checks.assert_same_weights(keras.models.load_model(paths[1]), kmerge.compress(big))


def test_a_merged_vit_reads_digits_as_well_as_its_parents():
    """End to end on real data: 8x8 digits as four patches of 4x4 pixels."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8, 1).astype("float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def accuracy(model):
        (logits,) = checks.outputs(model, [images[1400:]])
        return float(np.mean(np.argmax(logits, axis=-1) == labels[1400:]))

    sizes = dict(width=16, classes=10, blocks=1, heads=4, key_dim=4, hidden=32)
    build = functools.partial(attention_models.vit, "batch", **sizes)
    parents, network = [build() for _ in range(2)], build()
    network.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=JIT)
    network.optimizer.build(network.trainable_variables)
    new = [keras.ops.convert_to_numpy(v) for v in network.optimizer.variables]

    def train(model, epochs):
        """In the network that is compiled already."""
        network.set_weights(model.get_weights())
        for variable, value in zip(network.optimizer.variables, new, strict=True):
            variable.assign(value)
        network.fit(images[:1400], labels[:1400], batch_size=64, epochs=epochs, verbose=0)
        model.set_weights(network.get_weights())

    for parent in parents:
        train(parent, 5)
    big = kmerge.merge(*parents)
    big.compile(kmerge.gate_optimizer(keras.optimizers.Adam(1e-3)), loss, jit_compile=JIT)
    big.fit(images[:1400], labels[:1400], batch_size=64, epochs=5, verbose=0, callbacks=[kmerge.GatePressure()])
    student = kmerge.compress(big)
    assert accuracy(student) == pytest.approx(accuracy(big), abs=0.01)  # the cut loses nothing
    train(student, 2)
    assert student.count_params() == parents[0].count_params()
    assert min(map(accuracy, parents)) > 0.8
    assert accuracy(student) > np.mean([accuracy(parent) for parent in parents]) - 0.03
