"""What no rule says is never guessed: weights that came to a layer later, and activations that may mix channels."""

import itertools
import types

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from kmerge.rules.elementwise import is_elementwise
from tests.checks import relative_error
from tests.models import randomize

KINDS = {
    "dense": (lambda: layers.Dense(4), (6,)),
    "convolution": (lambda: layers.Conv2D(4, 2), (3, 3, 6)),
    "depthwise": (lambda: layers.DepthwiseConv2D(2), (3, 3, 6)),
    "batch_normalization": (lambda: layers.BatchNormalization(), (6,)),
    "layer_normalization": (lambda: layers.LayerNormalization(), (6,)),
    "prelu": (lambda: layers.PReLU(), (6,)),
    "einsum_dense": (lambda: layers.EinsumDense("abc,cd->abd", (3, 4), bias_axes="d"), (3, 6)),
    "recurrent": (lambda: layers.GRU(4), (3, 6)),
    "two_ways": (lambda: layers.Bidirectional(layers.LSTM(4)), (3, 6)),
    "dropout": (lambda: layers.Dropout(0.2), (6,)),
    "activation": (lambda: layers.Activation("tanh"), (6,)),
    "pooling": (lambda: layers.MaxPooling2D(), (4, 4, 6)),
}
VERBS = {
    "permute": lambda model: kmerge.permute(model, {}),
    "merge": lambda model: kmerge.merge(model, model),
    "recalibrate": lambda model: kmerge.recalibrate(model, np.zeros((2, *model.input_shape[1:]), "float32")),
}


def around(layer, shape):
    x = keras.Input(shape)
    h = layer(layers.Dense(6)(x))
    h = layers.Flatten()(h) if len(h.shape) > 2 else h
    return keras.Model(x, layers.Dense(2)(layers.Dense(5, activation="relu")(h)))


def with_one_more_weight(layer):
    layer._tracker.unlock()
    layer.add_weight(shape=(4,), name="added")


def with_a_part(layer):
    layer._tracker.unlock()
    layer.part = layers.Dense(2)
    layer.part.build((None, 6))


@pytest.mark.filterwarnings("ignore::UserWarning")  # that it runs as it is
@pytest.mark.parametrize("kind, add", list(zip(KINDS, itertools.cycle([with_one_more_weight, with_a_part]))))
def test_a_weight_that_came_later_is_refused_by_name_and_never_lost(kind, add):
    make, shape = KINDS[kind]
    layer = make()
    model = around(layer, shape)
    add(layer)
    for verb in VERBS.values():
        with pytest.raises(kmerge.UnsupportedLayerError, match=f"'{layer.name}'.*holds the weights"):
            verb(model)


class Scaled(layers.Dense):
    """A Dense layer that makes a weight of which the rule of Dense says nothing."""

    def __init__(self, units, **options):
        super().__init__(units, **options)
        self.scale = self.add_weight(shape=(4,), name="scale", initializer="ones")


def test_a_layer_that_makes_it_itself_runs_as_it_is_and_keeps_it():
    model = around(Scaled(4), (6,))
    randomize(model, 0)
    with pytest.warns(kmerge.UnfollowedLayerWarning, match="says nothing of its weights"):
        new = kmerge.concatenate(model, model)
    x = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    assert relative_error(np.asarray(new(x)), np.asarray(model(x))) < 1e-5
    copies = [layer for layer in new.layers if isinstance(layer, Scaled)]
    assert len(copies) == 2 and all(np.array_equal(c.scale, model.layers[2].scale) for c in copies)


class WrongRule(kmerge.Rule):
    def walk(self, site, x):
        site.weight("kernel", kmerge.consumes(site.consume(x)), kmerge.produces(site.own(3)))
        return site.output(site.own(4))


def test_a_rule_that_names_other_axes_than_a_weight_has_is_told_so(monkeypatch):
    monkeypatch.setitem(kmerge.rules.rule.RULES, Scaled, WrongRule())
    with kmerge.strict(), pytest.raises(kmerge.UnsupportedLayerError, match=r"axes of \[6, 3\] units, but .* \(6, 4\)"):
        kmerge.channel_spaces(around(Scaled(4), (6,)))


PRELU, PAIR, HOLDER = layers.PReLU(), (layers.PReLU(),), types.ModuleType("holder")
HOLDER.layer = layers.PReLU()


def default(x, layer=PRELU):
    return layer(x)


def calls_another(x):
    return default(x)


def inside_another(x):
    def inner(y):
        return PRELU(y)

    return inner(x)


MIXING = {
    "sparsemax": keras.activations.sparsemax,
    "its_width": lambda x: x / x.shape[-1],
    "another_at_another_width": lambda x: ops.relu(x) if x.shape[-1] == 7 else ops.tanh(x),
    "its_maximum": lambda x: x - ops.max(x, axis=-1, keepdims=True),
    "reversed": lambda x: x[..., ::-1],
    "a_default": default,
    "of_another_function": calls_another,
    "of_an_inner_function": inside_another,
    "of_a_module": lambda x: HOLDER.layer(x),
    "of_a_tuple": lambda x: PAIR[0](x),
    "out_of_sight": lambda x: globals()["PRELU"](x),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_is_not_known_to_be_elementwise_is_not_taken_for_it_and_not_run(name):
    assert not is_elementwise(MIXING[name])
    assert not any(layer.built for layer in (PRELU, *PAIR, HOLDER.layer))


FACTOR = 2.0


@pytest.mark.parametrize("function", [lambda x: ops.relu(x) ** FACTOR, lambda x: squared(x) + 1, keras.activations.gelu])
def test_what_is_known_to_be_elementwise_is_taken_for_it(function):
    assert is_elementwise(function)


def squared(x):
    return keras.ops.square(x)
