"""channel_spaces: which units belong together, on graphs small enough to say so by hand."""

import time
from collections.abc import Mapping

import keras
import pytest
from keras import layers, ops

import kmerge
from kmerge.rules.rule import channel
from tests.checks import parent, selectable
from tests.models import ZOO


def dense(units: int, name: str, **options):
    return layers.Dense(units, name=name, **options)


def conv(filters: int, name: str, **options):
    return layers.Conv2D(filters, 3, padding="same", name=name, **options)


def test_a_chain_has_one_space_per_layer():
    x = keras.Input((3,), name="x")
    h = layers.BatchNormalization(name="bn")(dense(5, "first")(x))
    h = dense(4, "second")(layers.ReLU(name="relu")(h))
    spaces = kmerge.channel_spaces(keras.Model(x, dense(2, "last")(h)))
    assert isinstance(spaces, Mapping)
    assert {name: space.size for name, space in spaces.items() if space.selectable} == {"first": 5, "second": 4}
    first = spaces["first"]
    assert (first.name, tuple(first.owners), tuple(first.consumers)) == ("first", ("first",), ("second",))
    assert not first.ties and first.selectable and not first.reason
    fixed = {space.size for space in spaces.values() if not space.selectable}
    assert fixed == {3, 2}
    assert all(space.reason for space in spaces.values() if not space.selectable)
    assert tuple(spaces["last"].owners) == ("last",)


def test_the_table_names_everything():
    x = keras.Input((3,), name="pixels")
    h = layers.BatchNormalization(name="bn")(dense(5, "first")(x))
    model = keras.Model(x, dense(2, "last")(h))
    table = str(kmerge.channel_spaces(model))
    for space in kmerge.channel_spaces(model).values():
        (line,) = [line for line in table.splitlines() if line.startswith(space.name)]
        for word in (space.size, *space.owners, *space.consumers, *space.ties, space.reason):
            assert str(word) in line
    lines = [line for line in table.splitlines() if line.strip()]
    assert len(lines) >= 1 + len(kmerge.channel_spaces(model))
    assert max(map(len, lines)) <= 200


def test_a_residual_stream_is_one_space():
    x = keras.Input((6, 6, 3))
    stream = conv(4, "stem")(x)
    for block in range(2):
        h = layers.ReLU()(layers.BatchNormalization(name=f"bn_{block}")(conv(6, f"up_{block}")(stream)))
        stream = layers.Add(name=f"add_{block}")([stream, conv(4, f"down_{block}")(h)])
    model = keras.Model(x, dense(2, "head")(layers.GlobalAveragePooling2D()(stream)))
    spaces = kmerge.channel_spaces(model)
    assert selectable(model) == {"stem": 4, "up_0": 6, "up_1": 6}
    assert set(spaces["stem"].owners) == {"stem", "down_0", "down_1"}
    assert set(spaces["stem"].consumers) == {"up_0", "up_1", "head"}
    assert {"add_0", "add_1"} <= set(spaces["stem"].ties)


def test_flatten_and_concatenate_keep_spaces_apart():
    x = keras.Input((6, 6, 3))
    joined = layers.Concatenate()([conv(4, "left")(x), conv(2, "right")(x)])
    model = keras.Model(x, dense(2, "head")(layers.Flatten()(joined)))
    spaces = kmerge.channel_spaces(model)
    assert selectable(model) == {"left": 4, "right": 2}
    assert tuple(spaces["left"].consumers) == tuple(spaces["right"].consumers) == ("head",)


def test_a_unit_may_occur_twice():
    x = keras.Input((3,))
    h, g = dense(4, "h")(x), dense(2, "g")(x)
    model = keras.Model(x, dense(2, "head")(layers.Concatenate()([h, g, h])))
    assert selectable(model) == {"h": 4, "g": 2}


def test_a_multiplied_axis_does_not_tie_what_it_broadcasts():
    x = keras.Input((6, 6, 3))
    h = layers.Multiply()([conv(5, "maps")(x), conv(1, "gate")(x)])
    model = keras.Model(x, dense(2, "head")(layers.GlobalAveragePooling2D()(h)))
    assert selectable(model)["maps"] == 5


def test_squeeze_and_excitation_ties_the_gate_to_what_it_gates():
    x = keras.Input((6, 6, 3))
    h = conv(5, "maps")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(h)
    gate = conv(5, "excite", activation="sigmoid")(conv(2, "squeeze", activation="relu")(gate))
    h = layers.Multiply()([h, gate])
    model = keras.Model(x, dense(2, "head")(layers.GlobalAveragePooling2D()(h)))
    assert selectable(model) == {"maps": 5, "squeeze": 2}
    assert set(kmerge.channel_spaces(model)["maps"].owners) == {"maps", "excite"}


def test_slices_tie_what_is_multiplied():
    x = keras.Input((3,))
    h = dense(8, "both")(x)
    model = keras.Model(x, dense(2, "head")(h[:, :4] * ops.sigmoid(h[:, 4:])))
    (size,) = selectable(model).values()
    assert size == 4


def test_halves_that_are_read_apart_are_two_spaces():
    x = keras.Input((3,))
    h = dense(8, "both", activation="relu")(x)
    left, right = dense(3, "left")(h[:, :3]), dense(4, "right")(h[:, 3:])
    model = keras.Model(x, dense(2, "head")(layers.Concatenate()([left, right])))
    sizes = selectable(model)
    assert sorted(sizes.values()) == [3, 3, 4, 5]
    assert sizes["left"] == 3 and sizes["right"] == 4
    halves = [s for s in kmerge.channel_spaces(model).values() if s.selectable and tuple(s.owners) == ("both",)]
    assert sorted((s.size, tuple(s.consumers)) for s in halves) == [(3, ("left",)), (5, ("right",))]


def test_a_depthwise_convolution_passes_and_a_multiplier_repeats():
    x = keras.Input((6, 6, 3))
    h = layers.DepthwiseConv2D(3, depth_multiplier=3, name="depthwise")(conv(4, "maps")(x))
    model = keras.Model(x, dense(2, "head")(layers.GlobalAveragePooling2D()(h)))
    space = kmerge.channel_spaces(model)["maps"]
    assert selectable(model) == {"maps": 4}
    assert tuple(space.consumers) == ("head",)


def test_a_group_of_a_grouped_convolution_is_one_unit():
    x = keras.Input((6, 6, 3))
    h = conv(12, "grouped", groups=4)(conv(8, "maps")(x))
    model = keras.Model(x, dense(2, "head")(layers.GlobalAveragePooling2D()(h)))
    (size,) = selectable(model).values()
    assert size == 4


def test_a_shared_layer_ties_its_inputs_and_has_one_output_space():
    x, y = keras.Input((3,)), keras.Input((3,))
    shared = dense(4, "shared")
    a, b = shared(dense(6, "a")(x)), shared(dense(6, "b")(y))
    model = keras.Model([x, y], dense(2, "head")(layers.Concatenate()([a, b])))
    free = {frozenset(s.owners): s.size for s in kmerge.channel_spaces(model).values() if s.selectable}
    assert free == {frozenset({"a", "b"}): 6, frozenset({"shared"}): 4}


def test_a_layer_applied_to_its_own_output_ties_both_sides():
    x = keras.Input((3,))
    again = dense(6, "again")
    model = keras.Model(x, dense(2, "head")(again(again(dense(6, "first")(x)))))
    (size,) = selectable(model).values()
    assert size == 6


def test_layers_of_nested_models_go_by_their_path():
    x = keras.Input((3,))
    encoder = keras.Model(x, dense(4, "code")(dense(5, "hidden")(x)), name="encoder")
    z = keras.Input((3,))
    model = keras.Model(z, dense(2, "head")(layers.Subtract()([encoder(z), encoder(z * 2.0)])))
    assert sorted(selectable(model).values()) == [4, 5]
    free = [space for space in kmerge.channel_spaces(model).values() if space.selectable]
    assert {owner for space in free for owner in space.owners} == {"encoder/hidden", "encoder/code"}


def test_what_reaches_an_input_or_an_output_is_fixed():
    x = keras.Input((4,))
    h = layers.Add()([x, dense(4, "first")(x)])
    out = dense(2, "last")(h)
    model = keras.Model(x, [h, out])
    assert selectable(model) == {}
    assert all(space.reason for space in kmerge.channel_spaces(model).values())


@pytest.mark.parametrize("entry", ZOO.values(), ids=ZOO)
def test_every_hidden_kernel_can_be_cut(entry):
    """Each model of the zoo has something to select, each space is owned, and a second look finds the same."""
    model = parent(entry, 0)
    spaces = kmerge.channel_spaces(model)
    assert selectable(model)
    for name, space in spaces.items():
        assert space.name == name and space.size > 0
        assert bool(space.reason) == (not space.selectable)
        assert not space.selectable or (space.owners and space.consumers)
    assert str(kmerge.channel_spaces(model)) == str(spaces)


@pytest.mark.parametrize("entry", ZOO.values(), ids=ZOO)
def test_names_survive_a_reload(entry):
    """Plans are keyed by name, so a model that comes from a file must have the spaces of the one that was saved."""
    model = parent(entry, 0)
    reloaded = type(model).from_config(model.get_config())
    assert str(kmerge.channel_spaces(reloaded)) == str(kmerge.channel_spaces(model))


@keras.saving.register_keras_serializable("tests")
class ChannelScale(layers.Layer):
    """One trainable factor per channel, as a user may write it."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="scale")

    def call(self, inputs):
        return inputs * self.scale


class ChannelScaleRule(kmerge.Rule):
    def walk(self, site, x):
        x = site.hold(x)
        site.weight("scale", channel(x.units))
        return x


def _with_channel_scale(layer) -> keras.Model:
    x = keras.Input((3,))
    return keras.Model(x, dense(2, "head")(layer(dense(4, "hidden")(x))))


def test_a_layer_without_a_rule_is_refused_by_name():
    class Unknown(ChannelScale):
        def call(self, inputs):
            return inputs + self.scale if keras.ops.max(inputs) > 0 else inputs

        def compute_output_shape(self, input_shape):
            return input_shape

    with kmerge.strict(), pytest.raises(kmerge.UnsupportedLayerError, match=r"mystery.*Unknown.*register_rule"):
        kmerge.channel_spaces(_with_channel_scale(Unknown(name="mystery")))


def test_users_can_register_a_rule():
    kmerge.register_rule(ChannelScale, ChannelScaleRule())
    model = _with_channel_scale(ChannelScale(name="scale"))
    model.get_layer("scale").scale.assign([1.0, 2.0, 3.0, 4.0])
    kept = kmerge.select(model, {"hidden": [3, 1]})
    assert keras.ops.convert_to_numpy(kept.get_layer("scale").scale).tolist() == [2.0, 4.0]


def test_resnet50_is_walked_in_a_fifth_of_a_second():
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3))
    seconds = []
    for _ in range(5):
        start = time.process_time()
        kmerge.channel_spaces(model)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.2
