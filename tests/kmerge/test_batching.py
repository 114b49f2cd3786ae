"""Whatever `model.evaluate` takes serves every verb that takes data, and equal content gives equal results."""

import functools
import itertools

import keras
import numpy as np
import pytest

import kmerge
from kmerge.batching import Batches
from kmerge.errors import InvalidArgumentError
from tests.models import randomize
from tests.programs import without_programs

ROWS, SIZE = 22, 8
STEPS = 3
RNG = np.random.default_rng(0)
A, B = (RNG.normal(size=(ROWS, width)).astype("float32") for width in (4, 3))
LABELS = RNG.integers(0, 3, ROWS)
WEIGHTS = RNG.uniform(0.5, 2, ROWS).astype("float32")


@pytest.fixture(autouse=True)
def eager():
    with without_programs():
        yield


def network(seed=0):
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    h = keras.layers.Dense(6, activation="relu", name="hidden")(keras.layers.Concatenate(name="both")([a, b]))
    h = keras.layers.BatchNormalization(name="norm")(h)
    h = keras.layers.Dense(5, activation="tanh", name="second")(h)
    model = keras.Model([a, b], keras.layers.Dense(3, name="logits")(h), name="network")
    randomize(model, seed)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


# Kinds of data of one content: each returns it, in batches of 8 where it comes in batches.


def rows(start):
    part = slice(start, start + SIZE)
    return (A[part], B[part]), LABELS[part], WEIGHTS[part]


STARTS = range(0, ROWS, SIZE)


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        return rows(STARTS[index])


def dataset():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(((A, B), LABELS, WEIGHTS)).batch(SIZE)


def dataset_of_unknown_length():
    return dataset().filter(lambda *batch: True)


def endless_dataset():
    return dataset().repeat()


def endless_generator():
    return (rows(start) for _ in itertools.count() for start in STARTS)


class Loader:
    """Begins anew each time, as a DataLoader of torch does."""

    def __iter__(self):
        return map(rows, STARTS)


KINDS = {
    "list": lambda: ([A, B], LABELS, WEIGHTS),
    "dict": lambda: ({"b": B, "a": A}, LABELS, WEIGHTS),
    "float64": lambda: ([A.astype("float64"), B.astype("float64")], LABELS, WEIGHTS.astype("float64")),
    "tensors": lambda: keras.tree.map_structure(keras.ops.convert_to_tensor, ((A, B), LABELS, WEIGHTS)),
    "dataset": dataset,
    "dataset of unknown length": dataset_of_unknown_length,
    "endless dataset": endless_dataset,
    "PyDataset": lambda: Sequence(),
    "endless generator": endless_generator,
    "loader": Loader,
    "list of batches": lambda: list(map(rows, STARTS)),
}


@functools.cache
def left_alone():
    """A model for verbs that do not change their arguments."""
    return network()


def importance(data, steps):
    return kmerge.unit_importance(left_alone(), "taylor", data, batch_size=SIZE, steps=steps)


def prune(data, steps):
    return kmerge.prune(left_alone(), "taylor", budget=0.6, data=data, batch_size=SIZE, steps=steps).get_weights()


def recalibrate(data, steps):
    return kmerge.recalibrate(left_alone(), data, batch_size=SIZE, steps=steps).get_weights()


@functools.cache
def big_student():
    big = kmerge.merge(network(1), network(2))
    for gate in kmerge.gates_of(big):
        gate.loc.assign(np.linspace(-20, 20, gate.units))
    return big


def compress(data, steps):
    return kmerge.compress(big_student(), data, steps=steps, batch_size=SIZE).get_weights()


def report(data, steps):
    metric = "sparse_categorical_accuracy"
    return kmerge.merge_report(big_student(), data=data, metric=metric, batch_size=SIZE, steps=steps).metrics


def arguments(data):
    """The arguments of `fit`: Keras takes targets and sample weights beside arrays."""
    return dict(zip(("x", "y", "sample_weight"), data, strict=True)) if isinstance(data, tuple) else {"x": data}


def fit(data, steps):
    model = network()
    how = {} if isinstance(data, tuple) or steps is None else {"steps_per_epoch": steps}
    kmerge.fit(model, **arguments(data), **how, batch_size=SIZE, shuffle=False, epochs=2, verbose=0)
    return model.get_weights()


def validate(data, steps):
    model = network()
    how = {} if isinstance(data, tuple) or steps is None else {"validation_steps": steps}
    history = kmerge.fit(model, [A, B], LABELS, batch_size=SIZE, validation_data=data, **how, verbose=0)
    return history.history["val_loss"]


def size(data, steps):
    sizer = kmerge.AutoSizer(network(), 1e-3, growth=0.5, min_growth=1, spaces=["second"])
    how = {} if isinstance(data, tuple) or steps is None else {"steps_per_epoch": steps}
    sizer.fit(**arguments(data), **how, batch_size=SIZE, shuffle=False, epochs=1, static_epochs=1, verbose=0)
    return sizer.model.get_weights()


VERBS = (importance, prune, recalibrate, compress, report, fit, validate, size)
KERAS = (fit, validate, size)  # Keras does part of the work, and does not know all kinds
CASES = [
    pytest.param(verb, kind, id=f"{verb.__name__}-{kind}")
    for verb in VERBS
    for kind in KINDS
    if verb not in KERAS or kind not in ("loader", "list of batches")
    if verb not in (prune, validate, size) or kind not in ("list", "float64", "tensors")  # arrays as in `importance` and `fit`
]


@functools.cache
def from_arrays(verb):
    return keras.tree.flatten(verb(((A, B), LABELS, WEIGHTS), None))


@pytest.mark.filterwarnings("ignore:Of the .* units that go", "ignore::kmerge.ModelFitWarning")
@pytest.mark.parametrize("verb, kind", CASES)
def test_equal_content_gives_equal_results(verb, kind):
    data, steps = KINDS[kind](), STEPS if "endless" in kind else None
    for expected, found in zip(from_arrays(verb), keras.tree.flatten(verb(data, steps)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


class Endless(Sequence):
    @property
    def num_batches(self):
        return None


def unbatched():
    return dataset().unbatch()


@pytest.mark.parametrize(
    "data, message",
    [
        ("digits", "data to be arrays, .*received str"),
        (7, "received int"),
        (([[1, 2], [3, 4]], LABELS), r"an array for each of the model's inputs \['a', 'b'\], received tuple of 5 values"),
        (([1.0, 2.0], LABELS), "received a float in it. Make an array of it by numpy.asarray"),
        ([A, B], r"inputs and targets, \(x, y\), received inputs alone"),
        (([A, B, A], LABELS), "received tuple of 4 values"),
        (({"a": A}, LABELS), r"inputs \['a', 'b'\], received dict of \['a'\]"),
        (([A, B[:-1]], LABELS), r"equally many examples, received \[22, 21, 22\]"),
        (([A.astype(str), B], LABELS), "numbers for input 'a', received an array of type <U"),
        (([A, B.astype(object)], LABELS), "numbers for input 'b', received an array of type object"),
        ([([A[:SIZE], B[:3]], LABELS[:SIZE])], r"equally many examples in each batch, received \[8, 3, 8\]"),
        (([A, A], LABELS), r"batches of shape \(None, 3\) for input 'b', received \(8, 4\)"),
        (([A[:0], B[:0]], LABELS[:0]), "at least one batch, received none"),
        ([], "at least one batch, received none"),
        (unbatched, r"batches of shape \(None, 4\) for input 'a', received \(4,\). Put the examples in batches: data.batch"),
        (endless_dataset, "data that ends, received an endless dataset. Give steps, or take a part of it: data.take"),
        (Endless, "data that ends, received a PyDataset without a number of batches"),
    ],
)
def test_data_that_cannot_serve_is_refused_by_name(data, message):
    with pytest.raises(InvalidArgumentError, match=f"Importance 'taylor': expected .*{message}"):
        kmerge.unit_importance(network(), "taylor", data() if callable(data) else data, batch_size=SIZE)


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"x": 7}, "fit: expected x to be arrays.*received int"),
        ({"x": None, "y": LABELS}, "fit: expected x to be arrays.*received NoneType. Make arrays"),
        ({"x": Loader()}, r"expected x to be .*received Loader. Make a generator of it: \(batch for batch in x\)"),
        ({"x": [A, [1.0]], "y": LABELS}, "expected x to be .*received float in a list"),
        ({"x": Sequence, "y": LABELS}, "fit: expected no y beside x in batches, received .*ndarray"),
        ({"x": [A, B], "y": LABELS, "validation_data": "held out"}, "expected validation_data to be .*received str"),
        ({"x": [A, B], "sample_weight": WEIGHTS}, "expected y beside sample_weight, received None"),
    ],
)
def test_data_that_fit_cannot_take_is_refused_by_name(bad, message):
    bad = {name: value() if callable(value) else value for name, value in bad.items()}
    with pytest.raises(InvalidArgumentError, match=message):
        kmerge.fit(network(), **bad, verbose=0)


def test_a_sizer_needs_to_know_how_long_an_epoch_of_a_generator_is_and_says_once_who_trains():
    sizer = kmerge.AutoSizer(network(), 1e-3, min_growth=1)
    with pytest.raises(InvalidArgumentError, match="steps_per_epoch to be a whole number.* received None. A generator"):
        sizer.fit(endless_generator())
    with pytest.raises(InvalidArgumentError, match="steps_per_epoch to be None where x is arrays, received 3"):
        sizer.fit([A, B], LABELS, steps_per_epoch=3)
    with pytest.warns(kmerge.ModelFitWarning, match="the data holds a Sequence") as told:
        sizer.fit(Sequence(), epochs=1, static_epochs=2, verbose=0)
    with pytest.warns(kmerge.ModelFitWarning, match="the data holds a generator,"):
        sizer.fit(endless_generator(), epochs=1, static_epochs=1, initial_epoch=1, steps_per_epoch=1, verbose=0)
    assert [warning.category for warning in told].count(kmerge.ModelFitWarning) == 1


def test_batches_are_read_one_at_a_time():
    drawn = []
    generator = (drawn.append(start) or rows(start) for start in STARTS)
    for number, _ in enumerate(Batches(network(), generator, "test"), 1):
        assert len(drawn) == number
    assert number == STEPS


def test_a_dict_may_name_inputs_by_their_layers_as_keras_does():
    inputs = [keras.Input((4,)), keras.Input((3,))]  # the tensors of these have other names than the layers
    model = keras.Model(inputs, keras.layers.Concatenate()(inputs))
    names = [layer.name for layer in model.layers[:2]]
    ((x, _, _),) = Batches(model, {names[1]: B[:5], names[0]: A[:5]}, "test")
    np.testing.assert_array_equal(x[0], A[:5])
    np.testing.assert_array_equal(x[1], B[:5])


def test_a_generator_that_ends_within_an_epoch_is_refused_by_name_and_so_is_what_is_no_model():
    sizer = kmerge.AutoSizer(network())
    sizer.compile("adam", "sparse_categorical_crossentropy")
    one = iter([((A[:SIZE], B[:SIZE]), LABELS[:SIZE])])
    with pytest.warns(UserWarning, match="model.fit does the training"):
        with pytest.raises(InvalidArgumentError, match="expected x to give 2 batches in each epoch, received data that ended"):
            sizer.fit(one, epochs=2, static_epochs=0, steps_per_epoch=2, verbose=0)
    with pytest.raises(InvalidArgumentError, match="fit: expected a keras.Model, received str"):
        kmerge.fit("network", A, LABELS)
