"""Masks on inputs and masks in kernels: values, gradients, saving, what is refused."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from kmerge.errors import InvalidArgumentError
from kmerge.gates.application import ApplyGates, FoldGates, LookUpGates, gated_layer
from kmerge.gates.hard_concrete import HardConcreteGate
from tests.models import JIT
from tests.programs import without_programs

pytestmark = pytest.mark.both_backends


@keras.saving.register_keras_serializable("tests")
class OneMask(keras.layers.Layer):
    """A trainable mask (1, units), common to all examples."""

    def __init__(self, values, **kwargs):
        super().__init__(**kwargs)
        self.values = list(values)

    def build(self, shape):
        self.mask = self.add_weight(shape=(1, len(self.values)), initializer="zeros", name="mask")
        self.mask.assign([self.values])

    def call(self, inputs):
        return self.mask + 0.0

    def get_config(self):
        return super().get_config() | {"values": self.values}


def after_a_step(model, x, y):
    """Output before, and all weights after, one step of gradient descent."""
    before = ops.convert_to_numpy(model(x))
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=JIT)
    with without_programs():
        model.fit(x, y, batch_size=len(x), verbose=0)
    weights = {"/".join(weight.path.split("/")[-2:]): ops.convert_to_numpy(weight) for weight in model.weights}
    return {"output": before, **weights}


def assert_same_step(models, x, y, rtol=1e-5):
    first, second = (after_a_step(model, x, y) for model in models)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=rtol, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("common", [False, True])
def test_the_gradient_is_that_of_a_product(common):
    """`ApplyGates` keeps only the product, and finds the gradient of the gates from it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 4)).astype("float32"), rng.normal(size=(6, 2)).astype("float32")

    def build(apply):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((4,))
        source = OneMask([0.2, 0.9, 1.0, 0.4], name="mask") if common else layers.Dense(4, "sigmoid", name="masks")
        mask = source(inputs)
        hidden = layers.Dense(8, name="hidden")(inputs)
        return keras.Model(inputs, layers.Dense(2, name="head")(apply(hidden, mask)))

    twice = np.array([0, 0, 1, 1, 2, 2, 3, 3], "int32")
    assert_same_step(
        [build(lambda h, m: h * ops.take(m, twice, axis=-1)), build(lambda h, m: ApplyGates(twice + 1)([h, m]))], x, y
    )


LAYERS = {
    "dense": (lambda: layers.Dense(3, "tanh", name="layer"), (4,), 0),
    "conv": (lambda: layers.Conv2D(3, (2, 3), strides=2, padding="same", name="layer"), (6, 6, 4), 2),
    "transposed": (lambda: layers.Conv1DTranspose(3, 3, use_bias=False, name="layer"), (6, 4), 2),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_gated_kernel_is_a_gated_input(kind, tmp_path):
    make, shape, axis = LAYERS[kind]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, *shape)).astype("float32")

    def build(call):
        keras.utils.set_random_seed(1)
        inputs = keras.Input(shape)
        mask = OneMask([0.2, 0.9, 1.0], name="mask")(inputs)
        return keras.Model(inputs, call(make(), inputs, mask))

    indices = [1, 0, 3, 2]
    if kind == "transposed":
        axis = 2  # its kernel has the outputs before the inputs
    by_input = build(lambda layer, h, mask: layer(ApplyGates(indices)([h, mask])))
    by_kernel = build(lambda layer, h, mask: FoldGates(layer, indices, axis)([h, mask]))
    by_kernel.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), by_kernel(x))
    y = rng.normal(size=by_input.compute_output_shape(x.shape)).astype("float32")
    assert_same_step([by_input, by_kernel], x, y)
    # A step on one model leaves the other model's kernels, and the loaded one's, alone.
    assert_same_step([loaded, build(lambda layer, h, mask: FoldGates(layer, indices, axis)([h, mask]))], x, y)
    assert isinstance(gated_layer(by_kernel.layers[-1]), type(make()))


def test_the_sampled_masks_gradient_is_the_formulas():
    """Against differences of the mask at the same noise: a fresh layer with one seed draws one mask."""

    def mask_at(loc):
        gate = HardConcreteGate(5, seed=3)
        gate.build((None, 1))
        gate.loc.assign(loc)
        return ops.convert_to_numpy(gate(np.zeros((400, 1), "float32"), training=True)).astype("float64")

    loc, step = np.array([-60.0, -2.0, 0.0, 1.5, 60.0], "float32"), 1e-2
    numeric = (mask_at(loc + step) - mask_at(loc - step)).sum(axis=0) / (2 * step)

    inputs = keras.Input((1,))
    gate = HardConcreteGate(5, seed=3)
    model = keras.Model(inputs, gate(inputs))
    gate.loc.assign(loc)
    model.compile(keras.optimizers.SGD(1.0), loss=lambda y, mask: ops.sum(mask, axis=-1) * 400, jit_compile=JIT)
    with without_programs():
        model.fit(np.zeros((400, 1)), np.zeros((400, 5)), batch_size=400, verbose=0)
    np.testing.assert_allclose(loc - np.asarray(gate.loc), numeric, rtol=0.02, atol=0.3)
    assert numeric[1:4].min() > 10 and numeric[0] == numeric[4] == 0


def two_headed(**hidden):
    x = keras.Input((4,), name="x")
    h = layers.Dense(6, "relu", name="hidden", **hidden)(x)
    return keras.Model(x, [layers.Dense(2, name="cls")(h), layers.Dense(1, name="reg")(h)])


def test_a_gated_kernel_changes_neither_names_nor_losses():
    parents = [two_headed(activity_regularizer="l2") for _ in range(2)]
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    by_input, by_kernel = (kmerge.merge(*parents, sampling=sampling) for sampling in ("example", "batch"))
    assert by_kernel.output_names == ["cls", "reg"]
    assert sum(isinstance(layer, FoldGates) for layer in by_kernel.layers) == 2
    for big in (by_input, by_kernel):
        big(x)
        assert len(big.losses) == 1 and float(big.losses[0]) > 0
    regularized = [two_headed() for _ in range(2)]
    for model in regularized:
        model.get_layer("cls").activity_regularizer = keras.regularizers.L2(0.1)
    big = kmerge.merge(*regularized, sampling="batch")
    big(x)
    assert len(big.losses) == 1 and float(big.losses[0]) > 0


def test_gates_of_frozen_parents_train():
    parents = [two_headed() for _ in range(2)]
    for parent in parents:
        parent.trainable = False
    big = kmerge.merge(*parents)
    (gate,) = kmerge.gates_of(big)
    assert [variable.path for variable in big.trainable_variables] == [gate.loc.path]
    assert not kmerge.compress(big, keep={"hidden": range(6)}).trainable


def test_mixed_layers_in_a_plain_model_are_gated():
    big = kmerge.merge(*(two_headed(dtype="mixed_float16") for _ in range(2)), sampling="batch")
    big.compile(kmerge.gate_optimizer(keras.optimizers.SGD(0.1)), ["mse", "mse"], jit_compile=JIT)
    x = np.ones((4, 4), "float32")
    with without_programs():
        assert np.isfinite(big.fit(x, [np.ones((4, 2)), np.ones((4, 1))], verbose=0).history["loss"][0])


def test_a_shared_layer_is_gated_in_one_way(tmp_path):
    """Where it reads much its kernel would take the gates, where it reads little its input."""

    def parent(seed):
        keras.utils.set_random_seed(seed)
        x = keras.Input((4, 5))
        shared = layers.Dense(40, name="shared")
        h = layers.Dense(6, name="first")(x)
        both = [layers.GlobalAveragePooling1D()(shared(h)), shared(layers.GlobalAveragePooling1D()(h))]
        return keras.Model(x, layers.Dense(2, name="head")(layers.Add()(both)))

    big = kmerge.merge(parent(1), parent(2), sampling="batch")
    big.save(tmp_path / "big.keras")
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("float32")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "big.keras")(x), big(x), rtol=1e-5, atol=1e-6)


def test_a_layer_shared_with_a_nested_model_comes_back_shared(tmp_path):
    """No configuration of Keras holds such sharing: so this is told, and the student can be had in this process alone."""
    x, y = keras.Input((6,)), keras.Input((6,))
    shared = layers.Dense(6, name="shared")
    inner = keras.Model(y, shared(y), name="inner")
    model = keras.Model(x, layers.Dense(2)(inner(shared(layers.Dense(6)(x)))))
    with pytest.warns(UserWarning, match="not after it was saved and loaded.*'shared' is shared"):
        big = kmerge.merge(model, model, gates="open")
    keep = {name: np.arange(units.size) for name, units in kmerge.channel_spaces(model).items() if units.selectable}
    with pytest.warns(UserWarning, match="not after it was saved and loaded"):
        student = kmerge.compress(kmerge.gate(model, 1.0), keep=keep)
    assert student.get_layer("inner").layers[-1] is student.get_layer("shared")
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    np.testing.assert_allclose(student(x), model(x), rtol=1e-5, atol=1e-6)
    big.save(tmp_path / "big.keras")
    with pytest.raises(kmerge.KmergeError, match="'shared' is shared.*Compress it in the process that merged it"):
        kmerge.compress(keras.models.load_model(tmp_path / "big.keras"))


def test_mixed_precision_keeps_the_kernel_in_float32():
    inputs = keras.Input((4,))
    mask = OneMask([0.5] * 4, dtype="float32")(inputs)
    layer = FoldGates(layers.Dense(3, dtype="mixed_bfloat16"), [1, 2, 3, 4], 0)
    out = layer([inputs, mask])
    assert keras.backend.standardize_dtype(out.dtype) == "bfloat16"
    assert layer.layer.kernel.dtype == "float32"


@pytest.mark.parametrize(
    "indices, masks, words",
    [
        ([1, 2], [(1, 3)], "each of the 5 positions"),
        ([0, 1, 2, 3, 4], [(1, 3)], "0 and the 3"),
        ([1, 2, 3, 3, 3], [(2, 3)], "masks to be of one row each, common to all examples"),
    ],
)
def test_what_does_not_fit_is_refused(indices, masks, words):
    layer = FoldGates(layers.Dense(4), indices, 0, name="folded")
    with pytest.raises(InvalidArgumentError, match=f"FoldGates 'folded'.*{words}"):
        layer([np.ones((2, 5), "float32"), *(np.ones(shape, "float32") for shape in masks)])


def attentive(seed):
    """Attention, and a normalization that reads two spaces; its operations have the names that Keras gives them."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((5, 4))
    h = layers.Dense(8, activation="relu", name="first")(x)
    h = h + layers.MultiHeadAttention(2, 3, name="attention")(h, h)
    h = ops.concatenate([h, layers.Dense(3, name="second")(x)], axis=-1)
    h = layers.LayerNormalization(name="norm")(ops.take(h, [*range(10, -1, -1)], axis=-1))
    return keras.Model(x, layers.Dense(2, name="out")(h[:, 0]))


def in_one_program(model, x, training=False):
    """The outputs; on JAX by one program, as each operation by itself would be compiled for each shape."""
    if keras.backend.backend() != "jax":
        return ops.convert_to_numpy(model(x, training=training))
    import jax

    states = [[variable.value for variable in group] for group in (model.trainable_variables, model.non_trainable_variables)]
    return np.asarray(jax.jit(lambda *states: model.stateless_call(*states, x, training=training)[0])(*states))


@pytest.mark.parametrize("sampling", ["example", "batch"])
@pytest.mark.filterwarnings("ignore:The layers norm normalize")
def test_a_loaded_model_of_nameless_operations_is_gated_saved_and_loaded(tmp_path, sampling):
    """Keras counts operations from 0 in every process, so those of what was loaded may come again."""
    model = attentive(1)
    model.save(tmp_path / "model.keras")
    keras.utils.clear_session()
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(6, 5, 4)).astype("float32")
    gated = kmerge.gate(loaded, 1.0, sampling=sampling)
    big = kmerge.merge(loaded, attentive(2), sampling=sampling)
    np.testing.assert_allclose(in_one_program(gated, x), in_one_program(model, x), rtol=1e-4, atol=1e-5)
    for each in (gated, big) if sampling == "batch" else (big,):
        assert any(isinstance(layer, LookUpGates) for layer in each.layers)
        each.save(tmp_path / "gated.keras")
        keras.utils.clear_session()
        again = keras.models.load_model(tmp_path / "gated.keras")
        np.testing.assert_array_equal(in_one_program(again, x), in_one_program(each, x))
        in_one_program(again, x, training=True)
    first = {space.name: range(space.size) for space in kmerge.channel_spaces(loaded).selectable}
    small = kmerge.compress(again, keep=first)
    assert small.count_params() == model.count_params()
    gated = kmerge.gate(small, 1.0, sampling=sampling)
    np.testing.assert_allclose(in_one_program(gated, x), in_one_program(small, x), rtol=1e-4, atol=1e-5)
