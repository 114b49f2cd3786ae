"""Parents with other heads: the student has the classes of all in one head, or a head for each."""

import keras
import numpy as np
import pytest
from keras import layers

import kmerge
from tests import checks
from tests.checks import outputs
from tests.models import example_inputs, randomize


def parent(classes, seed, final, width=6, prefix="", **kinds):
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(width, 3, name=f"{prefix}stem")(image)
    x = layers.ReLU(name=f"{prefix}relu")(layers.BatchNormalization(name=f"{prefix}norm")(x))
    if kinds.get("dense"):
        x = layers.Dense(classes, final, name="logits")(layers.GlobalAveragePooling2D(name=f"{prefix}pool")(x))
    else:
        x = layers.Activation(final, name=f"{prefix}final")(layers.Conv2D(classes, 1, name="logits")(x))
    model = keras.Model(image, x, name="net")
    randomize(model, seed)
    return model


def logits(final, value):
    """What comes before the final activation, from its output; of a softmax, up to a common number."""
    if final == "softmax":
        return np.log(value) - np.log(value).mean(-1, keepdims=True)
    return np.log(value / (1 - value)) if final == "sigmoid" else value


@pytest.mark.parametrize(("final", "dense"), [("softmax", True), ("sigmoid", False), ("linear", True)])
def test_every_parent_keeps_its_logits(final, dense):
    parents = parent(5, 1, final, dense=dense), parent(3, 2, final, width=4, prefix="other_", dense=dense)
    inputs = example_inputs(parents[0])
    own = [logits(final, outputs(model, inputs)[0]) for model in parents]

    def merged(heads):
        return checks.check_arguments_unchanged(parents, lambda *both: kmerge.merge(*both, heads=heads, gates="open"))

    two, one = merged("both"), merged("join")
    for value, expected in zip(outputs(two, inputs), own, strict=True):
        checks.assert_close([logits(final, value)], [expected], 1e-5)
    (joined,) = outputs(one, inputs)
    for units, expected in zip((slice(0, 5), slice(5, 8)), own, strict=True):
        checks.assert_close([logits(final, joined[..., units])], [expected], 1e-5)
    for big, shapes in ((two, [5, 3]), (one, [8])):
        checks.decide(big)
        student = kmerge.compress(big)
        assert [output.shape[-1] for output in student.outputs] == shapes
        assert student.get_layer("stem").filters == 6


def test_an_end_that_is_no_head_is_refused():
    image = keras.Input((6, 6, 2))
    model = keras.Model(image, layers.ReLU()(layers.Conv2D(3, 1)(image)), name="net")
    with pytest.raises(kmerge.InvalidArgumentError, match="heads: expected 'net' to have one output.* received ReLU '"):
        kmerge.merge(model, model, heads="join")
    nested = keras.Model(image, keras.Sequential([keras.Input((6, 6, 2)), layers.Dense(3)], name="end")(image), name="net")
    with pytest.raises(kmerge.InvalidArgumentError, match="received Sequential 'end' at its end, a nested model"):
        kmerge.merge(nested, nested, heads="both")
    with pytest.raises(kmerge.InvalidArgumentError, match="heads to be one of 'same', 'join', 'both', received 'two'"):
        kmerge.merge(model, model, heads="two")


def model_of(*behind, names=("hidden", "logits"), units=3, seed=1, **kinds):
    """A small model whose head has these kinds; the names are those of its two layers."""
    x = layers.Dense(4, "relu", name=names[0])(features := keras.Input((5,), name="x"))
    x = layers.Dense(units, name=names[1], **kinds)(x)
    for layer in behind:
        x = layer(x)
    model = keras.Model({"x": features}, {"y": x})
    randomize(model, seed)
    return model


@pytest.mark.parametrize("heads", ["join", "both"])
def test_heads_may_differ_in_bias_and_names(heads):
    a = model_of(use_bias=False)
    b = model_of(names=("logits", "hidden"), seed=2, units=2)
    c = model_of(names=("logits_of_student", "classes"), seed=3)
    data = {"x": example_inputs(a)[0]}
    own = [model(data)["y"] for model in (a, b, c)]
    made = kmerge.merge(a, b, c, heads=heads, gates="open")(data)  # nested as the first model's inputs and outputs
    checks.assert_close(made if heads == "both" else [made["y"]], own if heads == "both" else [np.concatenate(own, -1)], 1e-5)


def test_a_head_may_be_called_before():
    features = keras.Input((5,))
    head = layers.Dense(5, name="head")
    models = [keras.Model(features, head(layers.ReLU()(head(features))))]
    models.append(keras.models.clone_model(models[0]))
    for seed, model in enumerate(models):
        randomize(model, seed)
    (x,) = example_inputs(models[0])
    checks.assert_close(kmerge.merge(models, heads="both", gates="open")(x), [model(x) for model in models], 1e-5)


@pytest.mark.parametrize(
    ("heads", "other", "told"),
    [
        ("join", model_of(activation="sigmoid", units=1), r"final activation \['softmax'\] as .* received \['sigmoid'\]"),
        ("join", model_of(), r"final activation \['softmax'\] as .* received \[\]"),
        ("both", keras.Model(i := keras.Input((4, 5)), layers.Dense(3)(i)), "axes of its input 2 as .* received 3"),
    ],
)
def test_heads_that_are_not_one(heads, other, told):
    with pytest.raises(kmerge.InvalidArgumentError, match=told):
        kmerge.merge(model_of(layers.Softmax()), other, heads=heads)
