"""What `merge` accepts, `compress` can finish: in this process, after saving, and with what Keras cannot find by name."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from tests import checks
from tests.models import randomize


def squared_relu(x):
    return ops.relu(x) ** 2


def mlp(activation, seed: int = 0) -> keras.Model:
    x = keras.Input((4,))
    h = layers.Dense(6, activation=activation, name="hidden")(x)
    model = keras.Model(x, layers.Dense(2, name="head")(h))
    randomize(model, seed)
    return model


def first_parent(big: keras.Model) -> keras.Model:
    return kmerge.compress(big, keep={"hidden": range(6)})


def test_an_object_with_a_name_is_found_when_a_big_student_is_loaded(tmp_path):
    big = kmerge.merge(mlp(squared_relu), mlp(squared_relu, 1), gates="open")
    expected = first_parent(big)
    big.save(tmp_path / "big.keras")
    loaded = keras.models.load_model(tmp_path / "big.keras", custom_objects={"squared_relu": squared_relu})
    checks.assert_same_weights(first_parent(loaded), expected)
    assert expected.get_layer("hidden").activation is squared_relu


def test_an_object_without_a_name_is_told_once_and_compressed_in_this_process():
    parent = mlp(lambda x: ops.relu(x) ** 2)
    with pytest.warns(UserWarning, match="not after it was saved and loaded.*<lambda> of Dense 'hidden'") as caught:
        big = kmerge.merge(parent, parent, gates="open")
    assert len([w for w in caught if "saved and loaded" in str(w.message)]) == 1
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    small, half = first_parent(big), parent.get_layer("head").kernel / 2
    np.testing.assert_allclose(small.get_layer("head").kernel, half, rtol=1e-6)
    small.set_weights(parent.get_weights())
    np.testing.assert_allclose(small(x), parent(x), rtol=1e-5)


def test_a_record_holds_no_weights_of_the_parent():
    big = kmerge.merge(mlp("relu"), mlp("relu", 1))
    assert not big.get_layer("merge_record").weights
    inside = first_parent(big).get_layer("hidden")
    assert all(inside is not layer for layer in big.layers)


class Net(keras.Model):
    """A subclass whose configuration says nothing of its graph."""

    def __init__(self):
        x = keras.Input((4,))
        super().__init__(x, layers.Dense(2, name="head")(layers.Dense(6, activation="relu", name="hidden")(x)))

    def train_step(self, *args):
        return super().train_step(*args)


def test_of_a_subclass_the_graph_is_merged_saved_and_compressed(tmp_path):
    parent = Net()
    randomize(parent, 0)
    with pytest.warns(UserWarning, match="Net of model .* has its own train_step"):
        big = kmerge.merge(parent, parent, gates="open")
    big.save(tmp_path / "big.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        student = first_parent(keras.models.load_model(tmp_path / "big.keras"))
    assert not isinstance(student, Net)
    np.testing.assert_array_equal(student.get_layer("hidden").kernel, parent.get_layer("hidden").kernel)


def test_units_that_nobody_reads_need_no_gate(tmp_path):
    def parent(seed):
        x = keras.Input((4,))
        model = keras.Model(x, layers.Dense(2)(layers.Dense(6, activation="relu", name="hidden")(x)[:, :3]))
        randomize(model, seed)
        return model

    big = kmerge.merge(parent(0), parent(1), width={"hidden:0": 2, "hidden:1": 1})
    assert len(kmerge.gates_of(big)) == len(kmerge.merge_report(big)) == 1
    big.save(tmp_path / "big.keras")
    for found in (big, keras.models.load_model(tmp_path / "big.keras")):
        assert kmerge.compress(found, keep={"hidden:0": [0, 2]}).get_layer("hidden").units == 3


@keras.saving.register_keras_serializable("tests")
class Nameless(layers.Layer):
    """Keras writes its configuration without a name, as its `__init__` has no `**kwargs` of that name. It runs as it is."""

    def __init__(self, units=4, **options):
        super().__init__(**options)
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def call(self, x, mask=None):
        return ops.sum(ops.where(mask[..., None], x @ self.kernel, 0.0), 1)


@pytest.mark.filterwarnings("ignore:Layer|The layers")
def test_layers_that_lose_their_names_are_told_of_and_keep_them_in_this_process(tmp_path):
    def parent(seed):
        x = keras.Input((5,), dtype="int32")
        h = Nameless()(layers.Dense(6, name="hidden")(layers.Embedding(7, 3, mask_zero=True, name="words")(x)))
        model = keras.Model(x, layers.Dense(2, name="head")(layers.Dense(4, "relu", name="next")(h)))
        randomize(model, seed)
        return model

    parents = [parent(seed) for seed in (0, 1)]
    with pytest.warns(UserWarning, match="not after it was saved and loaded.*: Nameless 'nameless.*' does not keep its name"):
        big = kmerge.merge(*parents, gates="open")
    checks.decide(big, checks.of_parent(1))
    student = kmerge.compress(big)
    checks.assert_same_interface(student, parents[0])
    assert [layer.name for layer in student.layers] == [layer.name for layer in parents[0].layers]
    x = np.random.default_rng(0).integers(0, 7, (4, 5))
    np.testing.assert_allclose(student(x), big(x), rtol=1e-4, atol=1e-6)
    big.save(tmp_path / "big.keras")
    with pytest.raises(kmerge.KmergeError, match="does not keep its name.* Compress it in the process that merged it"):
        kmerge.compress(keras.models.load_model(tmp_path / "big.keras"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_layer_that_is_handed_its_mask_stays_as_it_was():
    """In the new model its mask is an argument: there it could be opened, and its layers would be others."""

    def parent(seed):
        x = keras.Input((5,), dtype="int32")
        model = keras.Model(x, layers.Dense(2)(Nameless()(layers.Embedding(7, 3, mask_zero=True)(x))))
        randomize(model, seed)
        return model

    parents = [parent(seed) for seed in (0, 1)]
    x = np.random.default_rng(0).integers(0, 7, (4, 5))
    checks.assert_mean(kmerge.concatenate(*parents), parents, [x])
