"""`explain`: which layers meet the units of each space, what they do to them, and what one unit costs."""

import keras
import numpy as np
import pytest
from keras import layers

import kmerge
from tests.models import ZOO, example_inputs


def residual():
    image = keras.Input((8, 8, 1), name="image")
    x = stem = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="down")(layers.ReLU(name="relu")(x))
    x = layers.Conv2D(4, 3, padding="same", name="up")(layers.BatchNormalization(name="norm")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Add(name="add")([stem, x]))
    return keras.Model(image, layers.Dense(3, name="logits")(x), name="residual")


def rows(explained):
    return [(share.layer, share.roles, share.parameters) for share in explained.layers]


def test_each_layer_has_its_roles_and_the_parameters_of_a_unit():
    spaces = kmerge.explain(residual())
    assert list(spaces) == ["image", "stem", "down", "logits"]
    assert rows(spaces["stem"]) == [
        ("stem", ("makes",), 9 + 1),
        ("relu", ("passes",), 0),
        ("down", ("mixes",), 9 * 6),
        ("up", ("makes",), 9 * 6 + 1),
        ("add", ("ties",), 0),
        ("pool", ("passes",), 0),
        ("logits", ("mixes",), 3),
    ]
    assert rows(spaces["down"]) == [("down", ("makes",), 36), ("norm", ("carries",), 4), ("up", ("mixes",), 36)]
    assert rows(spaces["image"]) == [("image", ("input",), 0), ("stem", ("mixes",), 36)]


def test_a_layer_that_makes_and_mixes_the_same_units_has_one_row_and_counts_no_weight_twice():
    x = keras.Input((3,), name="x")
    h = layers.Dense(5, name="first")(x)
    h = layers.Add(name="add")([h, layers.Dense(5, name="second")(h)])
    explained = kmerge.explain(keras.Model(x, layers.Dense(2, name="last")(h)))["first"]
    # A unit of five is in 5 + 5 - 1 weights of the square kernel, and in the bias.
    assert ("second", ("makes", "mixes"), 10) in rows(explained)
    assert explained.parameters == 4 + 10 + 2


@pytest.mark.parametrize(
    "name", ["lenet", "densenet", "mobilenet_se", "siamese", "nested_two_deep", "two_inputs_two_outputs"]
)
def test_a_unit_costs_what_a_model_without_it_lacks(name):
    model = ZOO[name](1)
    spaces = kmerge.explain(model)
    for explained in list(spaces.values())[1:6]:
        if explained.space.selectable and explained.space.size > 1:
            fewer = kmerge.select(model, {explained.space.name: explained.space.size - 1})
            assert explained.parameters == kmerge.parameters(model) - kmerge.parameters(fewer)
            assert explained.parameters == sum(share.parameters for share in explained.layers)


def test_what_a_space_says_and_what_the_layers_say_agree():
    for name in ("resnet8", "inception", "unet", "sequential"):
        for explained in kmerge.explain(ZOO[name](1)).values():
            for role, paths in (("makes", explained.space.owners), ("mixes", explained.space.consumers)):
                said = {share.layer for share in explained.layers if role in share.roles}
                inputs = {share.layer for share in explained.layers if share.roles == ("input",)}
                assert said == set(paths) - inputs


def test_layers_that_normalize_are_told_from_those_that_carry_and_heads_are_a_space():
    x = keras.Input((4, 6), name="x")
    h = layers.LayerNormalization(name="norm")(layers.Dense(8, name="embed")(x))
    h = layers.MultiHeadAttention(2, 3, name="attention")(h, h)
    spaces = kmerge.explain(keras.Model(x, layers.Dense(2, name="last")(h)))
    assert ("norm", ("normalizes",), 2) in rows(spaces["embed"])
    heads = next(explained for explained in spaces.values() if explained.space.size == 2 and explained.space.selectable)
    ((layer, roles, cost),) = rows(heads)
    assert (layer, roles) == ("attention", ("makes", "mixes"))
    assert cost == 3 * (3 * 8 + 3) + 3 * 8  # query, key and value with bias, and the projection of what the head says


def test_it_prints_every_layer_and_why_a_space_is_not_selectable():
    text = str(kmerge.explain(residual()))
    title, *tables = text.split("\n\n")
    assert title.startswith("residual: ") and "4 channel spaces, 2 of them selectable" in title
    assert tables[0].startswith("image: 1 unit, not selectable: input 0 of the model\n")
    assert tables[1].startswith("stem: 4 units, selectable, 122 parameters each\n")
    assert [line.split()[0] for line in tables[1].splitlines()[1:]] == "stem relu down up add pool logits".split()


def test_a_big_student_is_explained_with_what_its_gates_keep():
    big = kmerge.merge(residual(), residual())
    for gate in kmerge.gates_of(big):
        gate.loc.assign(np.where(np.arange(gate.units) % 2, 3.0, -3.0))
    spaces = kmerge.explain(big)
    assert list(spaces) == list(kmerge.channel_spaces(residual()))
    np.testing.assert_array_equal(spaces["stem"].kept, [[False, True, False, True]] * 2)
    assert "gates keep 3 + 3 of 2 x 6" in str(spaces["down"])
    assert spaces["logits"].kept is None
    assert "not trained" not in spaces.title


def test_a_big_student_that_was_never_trained_says_so():
    assert "not trained" in kmerge.explain(kmerge.merge(residual(), residual())).title


def test_nothing_is_changed():
    model = residual()
    inputs = example_inputs(model)
    before = model(inputs[0])
    kmerge.explain(model)
    np.testing.assert_array_equal(model(inputs[0]), before)


def test_a_layer_that_cannot_be_followed_is_named():
    x = keras.Input((4,))
    flipped = layers.Lambda(lambda x: x[..., ::-1], name="flip")(layers.Dense(3)(x))
    with kmerge.strict(), pytest.raises(kmerge.UnsupportedLayerError, match="flip"):
        kmerge.explain(keras.Model(x, flipped))
