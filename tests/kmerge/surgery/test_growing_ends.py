"""grow on outputs and inputs: one more class, one more feature; or why not."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmerge
from tests import checks
from tests.checks import family
from tests.models import ZOO, every, example_inputs, randomize

# Small networks, each with something else at its ends.
ENDS = (
    "lenet", "two_inputs_two_outputs", "siamese", "sequential", "grouped_as_depthwise", "depth_multiplier",
    "group_normalization", "split_operation", "residual_on_the_input", "relu_of_an_output", "product_of_heads",
    "batch_normalization_before_the_output", "layer_applied_to_its_output", "classes_then_pooling",
)  # fmt: skip


def classifier(activation=None, seed=0):
    x = keras.Input((4,), name="features")
    h = layers.Dense(6, activation="relu", name="hidden")(x)
    model = keras.Model(x, layers.Dense(3, activation=activation, name="classes")(h))
    randomize(model, seed)
    return model


def with_more(array, count=1, seed=5):
    """Inputs with large values in new channels."""
    new = np.random.default_rng(seed).normal(0, 100, (*array.shape[:-1], count)).astype(array.dtype)
    return np.concatenate([array, new], axis=-1)


def assert_grown(grown, model, classes=0, features=0):
    """The old outputs stay, whatever the new features are."""
    inputs = example_inputs(model)
    wider = [with_more(x, features) for x in inputs] if features else inputs
    (old,), (new,) = checks.outputs(model, inputs), checks.outputs(grown, wider)
    assert new.shape == (*old.shape[:-1], old.shape[-1] + classes)
    checks.assert_close([new[..., : old.shape[-1]]], [old], 1e-6)


def test_one_more_class():
    model = classifier()
    grown = checks.check_arguments_unchanged([model], lambda m: kmerge.grow(m, {"classes": 2}, outputs=True))
    assert_grown(grown, model, classes=2)
    kernel, bias = grown.get_layer("classes").get_weights()
    old_kernel, old_bias = model.get_layer("classes").get_weights()
    assert np.array_equal(kernel[:, :3], old_kernel) and np.array_equal(bias[:3], old_bias)
    assert len(np.unique(kernel[:, 3:])) == 12 and not bias[3:].any()  # glorot_uniform and zeros
    assert np.abs(kernel[:, 3:]).max() <= np.sqrt(6 / (6 + 5))
    again, other = (kmerge.grow(model, {"classes": 2}, outputs=True, seed=seed) for seed in (0, 1))
    assert np.array_equal(again.get_layer("classes").get_weights()[0], kernel)
    assert not np.array_equal(other.get_layer("classes").get_weights()[0], kernel)


def test_a_softmax_is_over_all_classes():
    model = classifier("softmax")
    old, new = (checks.outputs(m, example_inputs(model))[0] for m in (model, kmerge.grow(model, {"classes": 1}, outputs=True)))
    share = 1 - new[:, 3:]
    assert np.all(share < 0.99)
    checks.assert_close([new[:, :3] / share], [old], 1e-5)


def test_one_more_feature():
    model = classifier()
    grown = checks.check_arguments_unchanged([model], lambda m: kmerge.grow(m, {"features": 2}, inputs=True))
    assert grown.input_shape == (None, 6) and grown.layers[0].name == "features"
    assert_grown(grown, model, features=2)
    scaled = kmerge.grow(model, {"features": 2}, inputs=True, scale=1.0).get_layer("hidden").get_weights()[0]
    assert np.array_equal(scaled[:4], model.get_layer("hidden").get_weights()[0])
    assert len(np.unique(scaled[4:])) == 12


def test_both_and_hidden_units_grow_at_once():
    model = classifier()
    grown = kmerge.grow(model, {"features": 1, "hidden": 2, "classes": 3}, inputs=True, outputs=True)
    assert [w.shape for w in grown.weights] == [(5, 8), (8,), (8, 6), (6,)]
    assert_grown(grown, model, classes=3, features=1)


@pytest.mark.parametrize(
    "normalize",
    [
        layers.Normalization,
        layers.BatchNormalization,
        lambda: layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0]),
        lambda: layers.Rescaling([1.0, 2.0, 3.0], [0.5, 0.0, 0.0]),
    ],
)
def test_what_stands_before_the_first_weight_takes_one_more_channel(normalize):
    x = keras.Input((5, 5, 3), name="image")
    h = layers.SeparableConv2D(4, 3)(layers.DepthwiseConv2D(2, depth_multiplier=2)(layers.ZeroPadding2D(1)(normalize()(x))))
    model = keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling2D()(h)))
    randomize(model, 1)
    grown = kmerge.grow(model, {"image": 2}, inputs=True)
    assert grown.input_shape == (None, 5, 5, 5)
    assert_grown(grown, model, features=2)
    first = grown.layers[1]
    if isinstance(first, layers.Normalization):
        assert np.all(np.ravel(first.mean)[3:] == 0) and np.all(np.ravel(first.variance)[3:] == 1)
    if isinstance(first, layers.BatchNormalization):
        new = [ops.convert_to_numpy(weight)[3:].tolist() for weight in first.weights]
        assert new == [[1, 1], [0, 0], [0, 0], [1, 1]]


def test_inputs_that_share_a_layer_grow_together():
    a, b, shared = keras.Input((4,), name="a"), keras.Input((4,), name="b"), layers.Dense(5)
    model = keras.Model([a, b], layers.Dense(2)(layers.Subtract()([shared(a), shared(b)])))
    randomize(model, 2)
    grown = kmerge.grow(model, {"a": 1}, inputs=True)
    assert grown.input_shape == [(None, 5), (None, 5)]
    assert_grown(grown, model, features=1)


def test_the_last_slice_of_an_input_grows():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Dense(2)(layers.Concatenate()([x[:, 2:], layers.Dense(3)(x[:, :2])])))
    randomize(model, 3)
    assert_grown(kmerge.grow(model, {"x:1": 1}, inputs=True), model, features=1)
    with pytest.raises(kmerge.InvalidArgumentError, match="received 'x:0'.*its new units would not come last"):
        kmerge.grow(model, {"x:0": 1}, inputs=True)


def test_an_input_added_to_what_a_layer_makes_of_it():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Dense(2)(layers.Add()([x, layers.Dense(4)(x)])))
    randomize(model, 4)
    assert_grown(kmerge.grow(model, {"x": 1}, inputs=True), model, features=1)


def test_an_output_that_another_layer_reads():
    x = keras.Input((4,))
    first = layers.Dense(3, name="first")(x)
    model = keras.Model(x, [first, layers.Dense(2, name="second")(layers.ReLU()(first))])
    randomize(model, 5)
    grown = kmerge.grow(model, {"first": 1}, outputs=True)
    (a, b), (c, d) = (checks.outputs(m, example_inputs(model)) for m in (grown, model))
    checks.assert_close([a[:, :3], b], [c, d], 1e-6)


def test_a_head_in_a_nested_model(tmp_path):
    y = keras.Input((6,))
    head = keras.Model(y, layers.Dense(3, name="classes")(layers.Dense(5, activation="relu")(y)), name="head")
    x = keras.Input((4,), name="features")
    model = keras.Model(x, head(layers.Dense(6, activation="relu")(x)))
    randomize(model, 6)
    grown = kmerge.grow(model, {"head/classes": 1, "features": 1}, outputs=True, inputs=True)
    assert_grown(grown, model, classes=1, features=1)
    grown.save(tmp_path / "grown.keras")
    inputs = example_inputs(grown)
    loaded = keras.models.load_model(tmp_path / "grown.keras")
    checks.assert_close(checks.outputs(loaded, inputs), checks.outputs(grown, inputs), 0.0)


def test_grown_models_merge():
    grown = [
        kmerge.grow(classifier(seed=seed), {"classes": 1, "features": 1}, outputs=True, inputs=True, scale=1.0, seed=seed)
        for seed in (1, 2)
    ]
    inputs = example_inputs(grown[0])
    mean = np.mean([checks.outputs(model, inputs)[0] for model in grown], axis=0)
    big = kmerge.merge(grown, gates="open")
    for joined in (big, kmerge.concatenate(grown)):
        checks.assert_close(checks.outputs(joined, inputs), [mean], 1e-5)
    student = kmerge.compress(big, keep={"hidden": range(6)})
    assert student.input_shape == (None, 5) and student.output_shape == (None, 4)


@every(ZOO, ENDS)
def test_ends_of_the_zoo_grow_or_are_refused(entry):
    """Each input and output alone: either the old logits stay, or it is said why it cannot grow."""
    model = family(entry)[0]
    inputs, count = example_inputs(model), 0
    for space in kmerge.channel_spaces(model).values():
        if not space.ends:
            continue
        try:
            grown = kmerge.grow(model, {space.name: 1}, outputs=True, inputs=True)
        except kmerge.KmergeError as error:
            assert space.name in str(error) or isinstance(error, kmerge.UnsupportedLayerError)
            continue
        count += 1
        wider = [
            with_more(x, new.shape[-1] - x.shape[-1], seed=7) for x, new in zip(inputs, grown.inputs, strict=True)
        ]
        for old, new, activation in zip(checks.outputs(model, inputs), checks.outputs(grown, wider), entry.final, strict=True):
            kept = new[..., : old.shape[-1]]
            if activation == "softmax":
                kept = kept / kept.sum(axis=-1, keepdims=True)
            checks.assert_close([kept], [old], 1e-5)
    assert count


def residual():
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Add()([x, layers.Dense(4)(layers.Dense(6)(x))]))


def two_heads_together():
    x = keras.Input((4,))
    return keras.Model(x, layers.Add()([layers.Dense(3, name="x")(x), layers.Dense(3, name="other")(x)]))


def one_head_twice():
    a, b, head = keras.Input((4,)), keras.Input((4,)), layers.Dense(3, name="x")
    return keras.Model([a, b], [head(a), head(b)])


def normalized():
    i = keras.Input((4,))
    return keras.Model(i, layers.LayerNormalization()(layers.Dense(3, name="x")(i)))


def normalized_input():
    i = keras.Input((4,), name="x")
    return keras.Model(i, layers.Dense(3)(layers.LayerNormalization()(i)))


def first_of_two():
    i = keras.Input((4,))
    return keras.Model(i, layers.Concatenate()([layers.Dense(3, name="x")(i), layers.Dense(2)(i)]))


def flattened():
    i = keras.Input((5, 4))
    return keras.Model(i, layers.Flatten()(layers.Dense(3, name="x")(i)))


def tokens():
    i = keras.Input((4,), name="x")
    return keras.Model(i, layers.Dense(3)(layers.Flatten()(layers.Embedding(5, 3)(i))))


REFUSED = {
    residual: "received 'x'. It cannot grow, for it is input 0 and output 0 of the model at once",
    two_heads_together: "x and other make it together",
    one_head_twice: "output 0 and output 1 of the model hold the same units",
    normalized: "a layer normalizes over its units together",
    normalized_input: "a layer normalizes over its units together",
    first_of_two: "its new units would not come last",
    flattened: "its new units would not come last",
    tokens: "received 'x'. It is not: input 0 of the model; embedding.* reads them as places of a sequence",
}


@pytest.mark.parametrize("build", REFUSED, ids=lambda build: build.__name__)
def test_ends_that_cannot_grow_alone_are_refused_by_name(build):
    model = build()
    with pytest.raises(kmerge.InvalidArgumentError, match=REFUSED[build]):
        kmerge.grow(model, {"x": 1}, outputs=True, inputs=True)


def test_other_verbs_name_the_way_out():
    model = classifier()
    way = r"It is not: output 0 of the model\. .*kmerge\.grow\(model, {'classes': 1}, outputs=True\)"
    for call in (kmerge.grow, kmerge.select):
        with pytest.raises(kmerge.InvalidArgumentError, match=way):
            call(model, {"classes": 1})
    with pytest.raises(kmerge.InvalidArgumentError, match=r"input 0 of the model\. .*{'features': 1}, inputs=True\)"):
        kmerge.grow(model, {"features": 1}, outputs=True)
    with pytest.raises(kmerge.InvalidArgumentError, match=r"print\(kmerge\.channel_spaces"):
        kmerge.grow(residual(), {"x": 1})
