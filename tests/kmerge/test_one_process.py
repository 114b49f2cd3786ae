"""The verbs in a process that lives long and does more: in threads, between cleared sessions, under tf.function and jax.jit,
and again and again."""

import gc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import keras
import numpy as np
import pytest
from keras import layers

import kmerge
from tests.checks import assert_close, decide, outputs
from tests.models import randomize

pytestmark = pytest.mark.both_backends
X = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")


def _network(seed):
    x = keras.Input((4,))
    h = layers.BatchNormalization()(layers.Dense(6)(x))
    h = layers.Add()([layers.ReLU()(h), layers.Dense(6, activation="tanh")(h)])
    model = keras.Model(x, layers.Dense(3)(h))
    randomize(model, seed)
    return model


@cache
def _parents():
    return _network(1), _network(2)


def _made(between=lambda: None):
    """A model of each verb that builds one, of the same parents; `between` is called between the verbs."""
    one, other = _parents()
    big = kmerge.merge(one, other)
    decide(big)
    made = [big]
    for verb in (
        lambda: kmerge.compress(big),
        lambda: kmerge.concatenate(one, other),
        lambda: kmerge.prune(one, "magnitude", budget=0.6),
    ):
        between()
        made.append(verb())
    return made


def _weights():
    return [weight for model in _made() for weight in model.get_weights()]


def _assert_equal(found, reference):
    assert len(found) == len(reference) and all(map(np.array_equal, found, reference))


def test_threads_that_cut_and_merge_the_same_models_at_once_make_what_one_makes():
    alone = _weights()
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: _weights(), range(4)):
            _assert_equal(found, alone)


def test_sessions_cleared_between_verbs_change_nothing():
    alone, before = _weights(), [outputs(parent, [X]) for parent in _parents()]
    made = _made(keras.utils.clear_session)
    _assert_equal([weight for model in made for weight in model.get_weights()], alone)
    for parent, reference in zip(_parents(), before, strict=True):
        assert_close(outputs(parent, [X]), reference, 1e-6)


def _traced(function):
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, autograph=False)


def test_models_run_inside_a_traced_program_and_verbs_run_there_or_are_refused():
    """TensorFlow's weights cannot be read while a program is traced; JAX's can."""
    one, other = _parents()
    big = kmerge.concatenate(one, other)
    assert_close([np.asarray(_traced(big)(X))], outputs(big, [X]), 1e-5)
    for verb in (lambda: kmerge.concatenate(one, other), lambda: kmerge.prune(one, "magnitude", budget=0.6)):
        inside = _traced(lambda x, verb=verb: verb()(x))
        if keras.backend.backend() == "jax":
            assert_close([np.asarray(inside(X))], outputs(verb(), [X]), 1e-5)
            continue
        with pytest.raises(kmerge.InvalidArgumentError, match="being traced.*outside of tf.function and jax.jit"):
            inside(X)


def test_models_that_nobody_holds_any_more_are_gone():
    """No registry and no cache of ours keeps a model, a layer or a weight."""
    kinds = (keras.Model, layers.Layer, keras.Variable, keras.KerasTensor)

    def living():
        gc.collect()
        return Counter(kind.__name__ for each in gc.get_objects() for kind in kinds if isinstance(each, kind))

    _made()
    before = living()
    for _ in range(3):
        _made()
    assert living() == before and before["Variable"] >= 2 * 8
