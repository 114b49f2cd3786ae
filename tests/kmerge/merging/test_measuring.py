"""What a metric is of models and of the mean of their outputs, against the same by hand and by `model.evaluate`."""

import keras
import numpy as np
import pytest

import kmerge
from tests.kmerge.test_compiling import Hidden
from tests.programs import without_programs

RNG = np.random.default_rng(0)
X, LABELS, WEIGHT = RNG.normal(size=(90, 5)).astype("float32"), RNG.integers(0, 3, 90), RNG.random(90).astype("float32")
ONE_HOT = np.eye(3, dtype="float32")[LABELS]


def classifier(seed, outputs=lambda out: out, activation="softmax"):
    keras.utils.set_random_seed(seed)
    x = keras.Input((5,))
    hidden = keras.layers.Dense(6, "relu")(x)
    return keras.Model(x, outputs(keras.layers.Dense(3, activation)(hidden)))


def first_of(build, data, metric, batch_size=40):
    parents = [build(seed) for seed in (1, 2)]
    report = kmerge.merge_report(
        kmerge.merge(*parents), parents=parents, data=data, metric=metric, batch_size=batch_size
    )
    return report.metrics["parent 1"]


@pytest.mark.both_backends
@pytest.mark.parametrize("weighted", [False, True])
def test_steps_that_a_mask_hides_do_not_count(weighted):
    def tagger(seed):
        keras.utils.set_random_seed(seed)
        x = keras.Input((7,), dtype="int32")
        h = keras.layers.GRU(4, return_sequences=True)(keras.layers.Embedding(4, 6, mask_zero=True)(x))
        return keras.Model(x, keras.layers.Dense(3)(h))

    x, y = RNG.integers(0, 4, (90, 7)).astype("int32"), RNG.integers(0, 3, (90, 7))
    right = np.argmax(keras.ops.convert_to_numpy(tagger(1)(x)), -1) == y
    count = (x > 0) * (WEIGHT[:, None] if weighted else 1)
    found = first_of(tagger, (x, y, WEIGHT) if weighted else (x, y), "sparse_categorical_accuracy")
    assert found == pytest.approx((right * count).sum() / count.sum(), rel=1e-5)
    assert abs(found - right.mean()) > 1e-3, "with the hidden steps it is another number"
    if not weighted:
        model = tagger(1)
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["sparse_categorical_accuracy"])
        with without_programs():
            assert model.evaluate(x, y, verbose=0)[1] == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_a_loss_is_measured_by_examples_not_by_batches(weight):
    each = -np.log(np.asarray(classifier(1)(X))[np.arange(90), LABELS])
    data = (X, LABELS) if weight is None else (X, LABELS, weight)
    found = first_of(classifier, data, keras.losses.SparseCategoricalCrossentropy())  # of 40, 40 and 10 examples
    assert found == pytest.approx(np.average(each, weights=weight), rel=1e-5)


@pytest.mark.parametrize("targets", [ONE_HOT, [ONE_HOT], {"a": ONE_HOT}], ids=["array", "list", "dict"])
@pytest.mark.parametrize("outputs", [lambda out: out, lambda out: [out], lambda out: {"a": out}], ids=["1", "list", "dict"])
def test_one_output_may_stand_in_a_list_or_dict(outputs, targets):
    expected = np.mean(np.square(np.asarray(classifier(1)(X)) - ONE_HOT))
    found = first_of(lambda seed: classifier(seed, outputs), (X, targets), "mean_squared_error")
    assert found == pytest.approx(expected, rel=1e-5)


def test_targets_of_two_outputs_are_refused():
    with pytest.raises(kmerge.InvalidArgumentError, match="targets of one output, received .2 arrays"):
        first_of(classifier, (X, [ONE_HOT, ONE_HOT]), "mean_squared_error")


def test_a_metric_keeps_what_its_configuration_leaves_out():
    out = np.asarray(classifier(1)(X))
    unit = [array / np.linalg.norm(array, axis=0) for array in (out, ONE_HOT)]
    found = first_of(classifier, (X, ONE_HOT), keras.metrics.CosineSimilarity(axis=0), batch_size=90)
    assert found == pytest.approx(np.mean(np.sum(unit[0] * unit[1], 0)), rel=1e-4)
    with pytest.raises(kmerge.InvalidArgumentError, match="merge_report, metric: .*leaves out factor. Write them into"):
        first_of(classifier, (X, ONE_HOT), Hidden(0.9))


@pytest.mark.parametrize("heads", ["join", "both"])
def test_parents_with_other_outputs_than_the_student_have_no_mean(heads):
    parents = [classifier(seed) for seed in (1, 2)]
    big = kmerge.merge(*parents, heads=heads)
    with pytest.raises(kmerge.InvalidArgumentError, match=r"parents to be models with outputs of shapes .*Leave parents out"):
        kmerge.merge_report(big, parents=parents, data=(X, LABELS), metric="sparse_categorical_accuracy")
    if heads == "join":
        found = kmerge.merge_report(big, data=(X, LABELS), metric="sparse_categorical_accuracy").metrics["big student"]
        assert found == pytest.approx(np.mean(np.argmax(np.asarray(big(X)), -1) == LABELS))
