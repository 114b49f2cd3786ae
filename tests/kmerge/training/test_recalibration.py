import keras
import numpy as np
import pytest
from keras import layers, ops

from kmerge.errors import InvalidArgumentError, UnsupportedLayerError
from kmerge.training.recalibration import recalibrate
from tests.programs import without_programs

RNG = np.random.default_rng(3)
IMAGES = (RNG.normal(size=(50, 6, 6, 3)) * [1, 2, 3] + [1, 0, -1]).astype("float32")


@pytest.fixture(autouse=True)
def eager():
    with without_programs():
        yield


def random_statistics(model):
    """Moving statistics that fit nothing, and scales and offsets that are not 1 and 0."""
    for weight in model.weights:
        if weight.name in ("moving_variance", "gamma"):
            weight.assign(RNG.uniform(0.5, 2, weight.shape))
        elif weight.name in ("moving_mean", "beta"):
            weight.assign(RNG.normal(size=weight.shape))
    return model


def residual_model():
    inputs = keras.Input((6, 6, 3))
    x = layers.BatchNormalization(name="bn_in")(inputs)
    x = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="bn_stem")(x))
    y = layers.Conv2D(4, 3, padding="same")(x)
    y = layers.ReLU()(layers.BatchNormalization(name="bn_a", scale=False)(y))
    y = layers.BatchNormalization(name="bn_b", center=False)(layers.Conv2D(4, 3, padding="same")(y))
    x = layers.ReLU()(x + y)
    return random_statistics(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))))


def norms_of(model):
    return [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]


def assert_statistics_fit(model, data, rtol=2e-4):
    """The definition itself: each layer's moving statistics are those of its input when the model runs in inference."""
    norms = norms_of(model)
    seen = keras.Model(model.inputs, [norm.input for norm in norms]).predict(data, verbose=0)
    for norm, x in zip(norms, seen if len(norms) > 1 else [seen], strict=True):
        axes = tuple(axis for axis in range(x.ndim) if axis != norm.axis % x.ndim)
        std = x.std(axes, dtype="float64")
        np.testing.assert_allclose(np.asarray(norm.moving_mean), x.mean(axes), atol=rtol * std.max(), err_msg=norm.name)
        np.testing.assert_allclose(np.asarray(norm.moving_variance), std**2, rtol=rtol, atol=1e-6, err_msg=norm.name)


def test_statistics_are_those_of_the_inputs_in_inference():
    model = residual_model()
    before = [np.copy(value) for value in model.get_weights()]
    fitted = recalibrate(model, IMAGES, batch_size=16)  # the last batch has 2 examples
    assert_statistics_fit(fitted, IMAGES)
    for value, same in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, same)
    for old, new in zip(model.weights, fitted.weights, strict=True):
        assert (old.name, old.shape) == (new.name, new.shape)
        if not old.name.startswith("moving"):
            np.testing.assert_array_equal(np.asarray(old), np.asarray(new))
    assert [layer.name for layer in fitted.layers] == [layer.name for layer in model.layers]
    assert all(type(norm) is layers.BatchNormalization for norm in norms_of(fitted))


def test_batch_size_and_start_do_not_matter():
    model = residual_model()
    one = recalibrate(model, IMAGES, batch_size=50)
    other = recalibrate(random_statistics_only(model), IMAGES, batch_size=14)
    for first, second in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-3)
    # The whole data as one batch: what training mode normalizes with is then what inference normalizes with.
    np.testing.assert_allclose(one(IMAGES, training=True), one.predict(IMAGES, verbose=0), rtol=2e-3, atol=2e-3)


def random_statistics_only(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for norm in norms_of(copy):
        norm.moving_mean.assign(RNG.normal(size=norm.moving_mean.shape) * 5)
    return copy


def test_nested_and_sequential_models():
    block = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5), layers.BatchNormalization(name="inner"), layers.Dense(4)], name="block"
    )
    inputs = keras.Input((4,))
    model = random_statistics(keras.Model(inputs, layers.BatchNormalization(name="outer")(block(inputs))))
    x = RNG.normal(size=(64, 4)).astype("float32")
    fitted = recalibrate(model, x)
    inner = fitted.get_layer("block")
    seen = keras.Model(inner.inputs, inner.get_layer("inner").input).predict(x, verbose=0)
    np.testing.assert_allclose(np.asarray(inner.get_layer("inner").moving_mean), seen.mean(0), atol=1e-4)
    seen = inner.predict(x, verbose=0)
    np.testing.assert_allclose(np.asarray(fitted.get_layer("outer").moving_variance), seen.var(0), rtol=1e-3)
    assert isinstance(recalibrate(block, x), keras.Sequential)
    assert_statistics_fit(recalibrate(block, x), x)


def test_calls_of_a_shared_layer_are_pooled():
    shared = layers.BatchNormalization(name="shared")
    first, second = keras.Input((3,)), keras.Input((3,))
    model = random_statistics(keras.Model([first, second], shared(first) - shared(second)))
    a, b = RNG.normal(size=(40, 3)).astype("float32"), RNG.normal(2, 3, size=(40, 3)).astype("float32")
    pooled = np.concatenate([a, b])
    for data in ([a, b], [((a[:30], b[:30]), None), ((a[30:], b[30:]), None)]):
        norm = recalibrate(model, data).get_layer("shared")
        np.testing.assert_allclose(np.asarray(norm.moving_mean), pooled.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.asarray(norm.moving_variance), pooled.var(0), rtol=1e-4)


def test_masked_steps_do_not_count():
    inputs = keras.Input((5, 2))
    masked = layers.Masking(mask_value=0.0)(inputs)
    model = random_statistics(keras.Model(inputs, layers.BatchNormalization(name="norm")(masked)))
    x = RNG.normal(3, 1, size=(30, 5, 2)).astype("float32")
    lengths = RNG.integers(1, 6, 30)
    valid = np.arange(5) < lengths[:, None]
    norm = recalibrate(model, np.where(valid[..., None], x, 0).astype("float32"), batch_size=8).get_layer("norm")
    np.testing.assert_allclose(np.asarray(norm.moving_mean), x[valid].mean(0), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(norm.moving_variance), x[valid].var(0), rtol=1e-4)


def test_other_axes_and_large_means():
    inputs = keras.Input((3, 7))
    model = random_statistics(keras.Model(inputs, layers.BatchNormalization(axis=1)(inputs)))
    x = RNG.normal(1000, 1, size=(400, 3, 7)).astype("float32")
    norm = norms_of(recalibrate(model, x, batch_size=9))[0]
    exact = x.astype("float64")
    np.testing.assert_allclose(np.asarray(norm.moving_mean), exact.mean((0, 2)), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(norm.moving_variance), exact.var((0, 2)), rtol=1e-3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = residual_model()
    finally:
        keras.config.set_dtype_policy("float32")
    fitted = recalibrate(model, IMAGES)
    first = fitted.get_layer("bn_in")
    np.testing.assert_allclose(np.asarray(first.moving_mean), IMAGES.mean((0, 1, 2)), rtol=2e-2, atol=2e-2)
    np.testing.assert_allclose(np.asarray(first.moving_variance), IMAGES.var((0, 1, 2)), rtol=2e-2)
    assert fitted.get_layer("stem").compute_dtype == policy.replace("mixed_", "")


def test_a_model_without_batch_normalization_is_copied():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    copy = recalibrate(model, np.zeros((2, 3), "float32"))
    assert copy is not model
    x = RNG.normal(size=(4, 3)).astype("float32")
    np.testing.assert_array_equal(copy.predict(x, verbose=0), model.predict(x, verbose=0))


def test_a_weight_that_is_frozen_alone_stays_so():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.BatchNormalization()])
    model.layers[0].bias.trainable = False
    copy = recalibrate(model, np.ones((2, 3), "float32"))
    assert [w.trainable for w in copy.weights] == [w.trainable for w in model.weights]


def test_operations_that_are_named_like_layers_of_the_model_stay_operations():
    x = keras.Input((6,))
    h = layers.Multiply()([layers.Reshape((2, 3))(x), layers.Reshape((2, 3))(x)])
    model = keras.Model(x, layers.Dense(2)(ops.reshape(h, (-1, 6)) * 2.0))
    data = np.ones((4, 6), "float32")
    np.testing.assert_array_equal(recalibrate(model, data)(data), model(data))


def test_the_result_saves_and_loads_without_custom_objects(tmp_path):
    fitted = recalibrate(residual_model(), IMAGES)
    fitted.save(tmp_path / "fitted.keras")
    assert "Measuring" not in fitted.to_json()
    loaded = keras.models.load_model(tmp_path / "fitted.keras")
    np.testing.assert_array_equal(loaded.predict(IMAGES, verbose=0), fitted.predict(IMAGES, verbose=0))


def nan_images():
    images = IMAGES.copy()
    images[7, 2, 2, 1] = np.nan
    return images


@pytest.mark.parametrize(
    "data, words",
    [
        (IMAGES[:0], "at least one batch, received none"),
        ([], "at least one batch, received none"),
        (7, "received int"),
        (None, "received NoneType"),
        (nan_images(), "layer 'bn_in' has a mean or variance that is not finite"),
    ],
)
def test_data_that_cannot_serve_is_refused(data, words):
    with pytest.raises(InvalidArgumentError, match=words):
        recalibrate(residual_model(), data)


def test_other_bad_input_is_refused():
    model = residual_model()
    with pytest.raises(InvalidArgumentError, match="batch_size to be a whole number of at least 1, received 0"):
        recalibrate(model, IMAGES, batch_size=0)
    model.get_layer("stem").kernel.assign(np.full((3, 3, 3, 4), np.nan))
    with pytest.raises(InvalidArgumentError, match="'bn_stem'.*model's weights"):
        recalibrate(model, IMAGES)
    with pytest.raises(InvalidArgumentError, match="not built"):
        recalibrate(keras.Sequential([layers.BatchNormalization()]), IMAGES)

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(InvalidArgumentError, match="Functional or Sequential model, received <Subclassed"):
        recalibrate(Subclassed(), IMAGES)

    class Hiding(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.norm = layers.BatchNormalization()

        def build(self, shape):
            self.norm.build(shape)

        def call(self, x):
            return self.norm(x)

    inputs = keras.Input((3,))
    with pytest.raises(UnsupportedLayerError, match="hiding.*nested Functional"):
        recalibrate(keras.Model(inputs, Hiding(name="hiding")(inputs)), np.zeros((4, 3)))
    two = [keras.Input((3,)), keras.Input((3,))]
    two_inputs = keras.Model(two, layers.BatchNormalization()(two[0] + two[1]))
    with pytest.raises(InvalidArgumentError, match=r"equally many examples, received \[4, 5\]"):
        recalibrate(two_inputs, [np.zeros((4, 3)), np.zeros((5, 3))])


def test_lambdas_and_a_layer_that_is_shared_with_a_nested_model_are_copied():
    shared = layers.Dense(4, activation=lambda x: ops.maximum(x, -0.5), name="shared")
    x = keras.Input((4,))
    block = keras.Model(x, layers.BatchNormalization(name="inner")(shared(x)), name="block")
    inputs = keras.Input((4,))
    h = layers.Lambda(lambda t: t * 2)(shared(block(inputs)))
    model = random_statistics(keras.Model(inputs, layers.Dense(2)(layers.BatchNormalization(name="outer")(h))))
    data = RNG.normal(size=(40, 4)).astype("float32")
    fitted = recalibrate(model, data)
    assert fitted.get_layer("shared") is fitted.get_layer("block").get_layer("shared")
    assert [w.path for w in fitted.weights] == [w.path for w in model.weights]
    inside, outer = fitted.get_layer("block"), fitted.get_layer("outer")
    for norm, of in ((inside.get_layer("inner"), inside), (outer, fitted)):
        seen = keras.Model(of.inputs, norm.input).predict(data, verbose=0)
        np.testing.assert_allclose(np.asarray(norm.moving_mean), seen.mean(0), atol=1e-3)


def test_a_class_with_a_training_step_of_its_own_is_kept():
    class Own(keras.Model):
        def train_step(self, data):
            return {}

    x = keras.Input((3,))
    assert type(recalibrate(Own(x, layers.BatchNormalization()(x)), np.ones((4, 3), "float32"))) is Own


def test_vocabularies_are_carried_over():
    words = layers.StringLookup()
    words.adapt(["a", "b"])
    x = keras.Input((3,), dtype="string")
    h = layers.Dense(4)(layers.Flatten()(layers.Embedding(6, 4)(words(x))))
    model = keras.Model(x, layers.Dense(2)(layers.BatchNormalization()(h)))
    data = keras.ops.convert_to_tensor(np.array([["a", "b", "c"], ["b", "b", "a"]]))
    result = recalibrate(model, [(data, None)])
    assert result.layers[1].get_vocabulary() == words.get_vocabulary()
