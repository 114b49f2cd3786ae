"""What single rules cannot follow: under `strict` it is refused by name with a way out, and otherwise it runs as it is."""

import numpy as np
import pytest
from keras import layers, ops

import kmerge
from kmerge import UnsupportedLayerError
from tests import checks
from tests.models import around


def _rows(h):
    """Four places with the channels last, and four with the channels first."""
    last = ops.repeat(ops.expand_dims(h, 1), 4, axis=1)
    return last, layers.Permute((2, 1))(last)


def _mean(h):
    return ops.mean(h, axis=1)


REFUSED = {
    "concatenate across axes": (lambda h: _mean(layers.Concatenate(axis=1)(_rows(h))), "different axes"),
    "stack across axes": (lambda h: _mean(_mean(ops.stack(_rows(h), axis=1))), "different axes"),
    "move the batch": (lambda h: ops.moveaxis(ops.moveaxis(_rows(h)[0], 0, 1), 1, 0)[:, 0], "moves the batch axis"),
    "tile the batch": (lambda h: ops.tile(h, [2, 1]), "repeats the batch"),
    "pad the batch": (lambda h: ops.pad(h, [[1, 0], [0, 0]]), "pads the batch axis"),
    "repeat unevenly": (lambda h: ops.repeat(h, [1, 2, 1, 2], axis=1), "repeats channels differently often"),
    "into the batch": (lambda h: ops.reshape(h, (-1, 2)), "moves channels into the batch axis"),
    "flatten channels first": (lambda h: layers.Flatten(data_format="channels_first")(_rows(h)[0]), "channels_first"),
    "an array of examples": (lambda h: ops.multiply(h, np.arange(20.0).reshape(5, 4)), "combines examples of a batch"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_by_name_or_runs_as_it_is(what):
    block, why = REFUSED[what]
    model = around(block)
    with kmerge.strict(), pytest.raises(UnsupportedLayerError, match=why):
        kmerge.channel_spaces(model)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    with pytest.warns(UserWarning, match=f"runs as it is.*{why}"):
        permuted = kmerge.permute(model, {"behind": [5, 1, 0, 3, 2, 4]})
    checks.assert_close(permuted(x), model(x), 1e-5)
    with pytest.raises(kmerge.InvalidArgumentError, match="hidden"):
        kmerge.select(model, {"hidden": 2})


@pytest.mark.parametrize("axis", [1, -2])
def test_what_is_taken_of_places_leaves_channels_where_they_are(axis):
    model = around(lambda h: layers.Flatten()(ops.take(_rows(h)[0], [2, 0], axis=axis)))
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    checks.assert_close(kmerge.permute(model, {"hidden": [3, 1, 0, 2]})(x), model(x), 1e-5)
    assert kmerge.select(model, {"hidden": 2})(x).shape == (5, 2)


class Halved(layers.Layer):
    """A layer whose rule fails."""

    def call(self, x):
        return x / 2


class FailingRule(kmerge.Rule):
    def walk(self, site, x):
        raise ZeroDivisionError("nothing is left")


kmerge.register_rule(Halved, FailingRule())


def test_a_rule_that_fails_is_told_with_what_it_says_and_where():
    model = around(Halved(name="half"))
    with pytest.raises(UnsupportedLayerError, match=r"(?s)half.*Halved.*its rule failed.*nothing is left.*mend it"):
        kmerge.channel_spaces(model)


class OfFour(layers.Layer):
    """A layer that takes four channels, which its rule does not say."""

    def call(self, x):
        return x + np.ones(4, "float32")


class ToFour(layers.Layer):
    """A layer that gives four channels, which its rule does not say."""

    def call(self, x):
        return ops.reshape(x, (-1, 4))


class PassingRule(kmerge.Rule):
    def walk(self, site, x):
        return site.output(x.units, x.axis)


kmerge.register_rule(OfFour, PassingRule())
kmerge.register_rule(ToFour, PassingRule())


@pytest.mark.parametrize(
    "layer, words",
    [
        (OfFour, "OfFour.*it cannot be called on the channels of the new model.*rule of yours.*OpaqueRule"),
        (ToFour, r"behind.*its weight 'kernel' of shape \(4, 6\) cannot be filled.*Register a rule"),
    ],
)
def test_a_layer_whose_rule_says_less_than_it_does_is_told_when_widths_change(layer, words):
    model = around(layer())
    with pytest.raises(UnsupportedLayerError, match=f"(?s){words}"):
        kmerge.select(model, {"hidden": 3})
